package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

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
	}},
}

// run is the whole program except for the process around it.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	return service.Dispatch(args, getenv, stdout, map[string]service.Command{
		"serve": service.With(func(cfg config, stdout io.Writer) error {
			return serve(ctx, cfg, service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel))
		}),
		"migrate": service.With(func(cfg MigrateConfig, stdout io.Writer) error {
			return migrate(ctx, cfg, stdout, false)
		}),
		"migrate --adopt-provider": service.With(func(cfg MigrateConfig, stdout io.Writer) error {
			return migrate(ctx, cfg, stdout, true)
		}),
		"broker": service.With(func(cfg service.Common, stdout io.Writer) error {
			return program.KeepBroker(ctx, cfg, service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel))
		}),
		"healthcheck": service.With(func(cfg ProbeConfig, _ io.Writer) error {
			return service.HealthcheckAddr(ctx, cfg.Addr, cfg.TLSFiles)
		}),
		"reconcile": service.With(func(cfg reconcileConfig, stdout io.Writer) error {
			return reconcileOnce(ctx, cfg, stdout, false)
		}),
		"reconcile --dry-run": service.With(func(cfg reconcileConfig, stdout io.Writer) error {
			return reconcileOnce(ctx, cfg, stdout, true)
		}),
	})
}

func migrate(ctx context.Context, cfg MigrateConfig, stdout io.Writer, adopt bool) error {
	log := service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel)
	if err := program.Migrate(ctx, cfg.DatabaseURL, cfg.Common, log); err != nil {
		return err
	}
	return identify(ctx, cfg, adopt, log)
}

// serve waits for what it needs, in whichever order it becomes available, then runs until ctx ends.
func serve(ctx context.Context, cfg config, log *slog.Logger) error {
	service.LogConfig(log, &cfg)
	pool, nc, tracer, err := program.Connect(ctx, cfg.DatabaseURL, cfg.Common, log)
	if err != nil {
		return err
	}
	closers := service.Closers(pool, nc, tracer)
	p, err := assemble(ctx, cfg, pool, nc, tracer, log)
	if err != nil {
		service.CloseAll(closers)
		return err
	}
	p.Closers = closers
	return p.Run(ctx)
}

// assemble connects the parts: commands in, worker, replies out.
func assemble(
	ctx context.Context, cfg config, pool *pgxpool.Pool, nc *service.NATS, tracer *service.Tracer, log *slog.Logger,
) (*service.Process, error) {
	registry := prometheus.NewRegistry()
	relays, wakeRelays, err := program.Relays(pool, nc, cfg.Common, tracer, registry, log)
	if err != nil {
		return nil, err
	}
	st := store.New(pool, wakeRelays)
	metrics := api.NewMetrics(registry, st)
	prov, err := newProvider(ctx, cfg, st, log)
	if err != nil {
		return nil, err
	}
	due := make(chan struct{}, 1)
	worker := &provision.Worker{
		Queue: st, Provider: prov,
		Policy: provision.Policy{Base: backoffBase, Cap: cfg.BackoffCap, OutageCap: cfg.OutageBackoffCap,
			Rate: cfg.ProviderRate},
		Concurrency: cfg.Workers, Timeout: cfg.ProviderTimeout, Lease: cfg.lease(),
		Wake: due, Log: log, Tracer: tracer, Attempted: metrics.Attempted,
	}
	handler := &provision.Handler{Inbox: st, Wake: signal(due), Log: log, Poisoned: metrics.Poisoned}
	health := service.NewHealth(map[string]func(context.Context) error{"postgres": service.Writable(pool)})
	tokens, err := tokens(cfg, registry, log)
	if err != nil {
		return nil, err
	}
	server, err := listen(cfg, &api.API{
		Store: st, Tokens: tokens, Health: health, Metrics: metrics,
		Log: log, Timeout: cfg.DatabaseTimeout, Faults: cfg.FaultsAllowed == "on", Requeue: handler.Requeue,
	}, tracer, log)
	if err != nil {
		return nil, err
	}
	commands, lag, err := commandsTasks(nc.Conn, cfg.Common, handler, tracer, registry, log)
	if err != nil {
		return nil, err
	}
	forget := service.Periodic("forget dead letters", time.Minute, log, func(ctx context.Context) (bool, error) {
		n, err := st.ForgetDeadLetters(ctx, cfg.DeadLetterAge, deadLetters, forgetBatch)
		if n > 0 {
			log.Warn("dead letters forgotten", "count", n)
		}
		return n == forgetBatch, err
	})
	reconciliation, err := reconciliationTask(cfg.Config, pool, prov, registry, log)
	if err != nil {
		return nil, err
	}
	return &service.Process{
		Log: log, Health: health, Servers: []*service.Server{server},
		Relays:     relays,
		Workers:    []service.Task{commands, lag, {Name: "worker", Run: worker.Run}, forget, reconciliation},
		DrainDelay: cfg.DrainDelay, DrainTimeout: cfg.DrainTimeout,
	}, nil
}

// commandsTasks returns a task that handles commands, and one that watches how far behind it is.
func commandsTasks(
	nc *nats.Conn, c service.Common, handler *provision.Handler, tracer *service.Tracer, registry prometheus.Registerer,
	log *slog.Logger,
) (commands, watch service.Task, err error) {
	cfg := program.Consumers[0]
	cfg.External, cfg.Linger, cfg.Log, cfg.Tracer = c.External(), service.Linger(contract.Essential), log, tracer
	lag, err := service.NewLag(nc, registry, log)
	if err != nil {
		return commands, watch, err
	}
	lag.Watch(cfg.Stream, cfg.Durable)
	commands = service.Task{Name: "commands", Run: func(ctx context.Context) error {
		return service.Consume(ctx, nc, cfg, handler.Handle)
	}}
	return commands, service.Task{Name: "lag of consumers", Run: lag.Run}, nil
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

// tokens returns the tokens of the internal listener.
func tokens(cfg config, registry prometheus.Registerer, log *slog.Logger) (*service.Tokens, error) {
	tokens, err := service.OperatorTokens("service", cfg.Token.Reveal())
	if err != nil {
		return nil, err
	}
	return tokens, tokens.Watch("storage", registry, log)
}

func listen(cfg config, a *api.API, tracer *service.Tracer, log *slog.Logger) (*service.Server, error) {
	certificate, err := cfg.ServerTLS(log)
	if err != nil {
		return nil, err
	}
	s := service.NewServer(service.ServerConfig{Name: "internal", Addr: cfg.Addr, TLS: certificate,
		Handler: a.Handler(), Log: log, Tracer: tracer})
	return s, s.Listen()
}
