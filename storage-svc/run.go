package main

import (
	"context"
	"io"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/api"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

const (
	commandBatch = 256
	forgetBatch  = 1000
)

var program = service.Program{
	Name: "storage-svc", Producer: contract.Storage, Migrations: store.Migrations,
	Consumers: []service.ConsumerConfig{{
		Stream: contract.Stream(contract.Member, contract.Essential), Durable: "storage-svc",
		Subjects: contract.Commands(contract.Storage), Batch: commandBatch,
		Linger: service.Linger(contract.Essential),
	}},
}

// run is the whole program except for the process around it.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	return service.Dispatch(ctx, args, getenv, stdout, map[string]service.Command{
		"serve":                    service.With(serve),
		"migrate":                  service.With(migrate(false)),
		"migrate --adopt-provider": service.With(migrate(true)),
		"broker":                   service.With(program.KeepBroker),
		"healthcheck": service.With(func(ctx context.Context, cfg ProbeConfig, _ io.Writer) error {
			return service.HealthcheckAddr(ctx, cfg.Addr, cfg.TLSFiles)
		}),
		"reconcile":           service.With(reconcileOnce(false)),
		"reconcile --dry-run": service.With(reconcileOnce(true)),
	})
}

func migrate(adopt bool) func(context.Context, MigrateConfig, io.Writer) error {
	return func(ctx context.Context, cfg MigrateConfig, stdout io.Writer) error {
		log := cfg.Logger(stdout)
		if err := program.Migrate(ctx, cfg.DatabaseURL, cfg.Common, log); err != nil {
			return err
		}
		return identify(ctx, cfg, adopt, log)
	}
}

// serve waits for what it needs, in whichever order it becomes available, then runs until ctx ends.
func serve(ctx context.Context, cfg config, stdout io.Writer) error {
	log := cfg.Logger(stdout)
	service.LogConfig(log, &cfg)
	return program.Serve(ctx, cfg.DatabaseURL, cfg.Common, log, func(b *service.Base) error {
		return build(ctx, cfg, b)
	})
}

// build connects the parts: commands in, worker, replies out.
func build(ctx context.Context, cfg config, b *service.Base) error {
	st := store.New(b.Pool, b.Wake)
	metrics := api.NewMetrics(b.Registry, st)
	prov, err := newProvider(ctx, cfg, st, b.Log)
	if err != nil {
		return err
	}
	due := make(chan struct{}, 1)
	worker := &provision.Worker{
		Queue: st, Provider: prov,
		Policy: provision.Policy{Base: backoffBase, Cap: cfg.BackoffCap, OutageCap: cfg.OutageBackoffCap,
			Rate: cfg.ProviderRate},
		Concurrency: cfg.Workers, Timeout: cfg.ProviderTimeout, Lease: cfg.lease(),
		Wake: due, Log: b.Log, Tracer: b.Tracer, Attempted: metrics.Attempted,
	}
	b.Add("worker", worker.Run)
	handler := &provision.Handler{Inbox: st, Wake: signal(due), Log: b.Log, Poisoned: metrics.Poisoned}
	b.Consume(program.Consumers[0], handler.Handle)
	b.Every("delete old dead letters", time.Minute, func(ctx context.Context) (bool, error) {
		n, err := st.ForgetDeadLetters(ctx, cfg.DeadLetterAge, deadLetters, forgetBatch)
		if n > 0 {
			b.Log.Warn("old dead letters deleted", "count", n)
		}
		return n == forgetBatch, err
	})
	addReconciliation(cfg.Config, b, prov)
	tokens, err := service.OperatorTokens("service", cfg.Token.Reveal())
	if err != nil {
		return err
	}
	tokens.Watch("storage", b.Registry, b.Log)
	certificate, err := cfg.ServerTLS(b.Log)
	if err != nil {
		return err
	}
	a := &api.API{
		Store: st, Tokens: tokens, Health: b.Health, Metrics: b.Registry,
		Log: b.Log, Timeout: cfg.DatabaseTimeout, Faults: cfg.FaultsAllowed == "on", Requeue: handler.Requeue,
	}
	return b.Listen(service.ServerConfig{Name: "internal", Addr: cfg.Addr, TLS: certificate, Handler: a.Handler()})
}

// signal returns a function that wakes the reader of ch without ever blocking.
func signal(ch chan<- struct{}) func() {
	return func() {
		select {
		case ch <- struct{}{}:
		default: // it is awake already
		}
	}
}
