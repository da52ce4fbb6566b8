package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/api"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

const (
	name         = "storage-svc"
	commandBatch = 256
	// natsPatience is how long migrate waits for NATS: serve creates streams too.
	natsPatience = 3 * time.Second
)

var errUsage = errors.New("usage: storage-svc serve | migrate | healthcheck (configured by environment variables, see the README)")

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	if len(args) != 1 {
		return errUsage
	}
	switch args[0] {
	case "serve":
		var cfg config
		if err := service.LoadConfig(getenv, &cfg); err != nil {
			return err
		}
		return serve(ctx, cfg, service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel))
	case "migrate":
		var cfg MigrateConfig
		if err := service.LoadConfig(getenv, &cfg); err != nil {
			return err
		}
		return migrate(ctx, cfg, service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel))
	case "healthcheck":
		var cfg ProbeConfig
		if err := service.LoadConfig(getenv, &cfg); err != nil {
			return err
		}
		return healthcheck(ctx, cfg.Addr)
	default:
		return errUsage
	}
}

// serve waits for what it needs, in any order of appearance, then runs until
// ctx ends.
func serve(ctx context.Context, cfg config, log *slog.Logger) error {
	sets, err := store.Migrations()
	if err != nil {
		return err
	}
	pool, err := service.OpenPool(ctx, cfg.DatabaseURL, log)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := service.WaitMigrated(ctx, pool, log, sets...); err != nil {
		return err
	}
	nc, err := service.ConnectNATS(cfg.NATSURL, name, log)
	if err != nil {
		return err
	}
	p, err := assemble(cfg, pool, nc, log)
	if err != nil {
		nc.Conn.Close()
		return err
	}
	return p.Run(ctx)
}

// assemble puts the parts together: commands in, worker, replies out.
func assemble(cfg config, pool *pgxpool.Pool, nc *service.NATS, log *slog.Logger) (*service.Process, error) {
	relays, wakeRelays, err := newRelays(cfg, pool, nc, log)
	if err != nil {
		return nil, err
	}
	st := store.New(pool, wakeRelays)
	metrics := api.NewMetrics(st, pool)
	prov, err := newProvider(cfg, st)
	if err != nil {
		return nil, err
	}
	due := make(chan struct{}, 1)
	worker := &provision.Worker{
		Queue: st, Provider: prov,
		Policy:      provision.Policy{Base: cfg.BackoffBase, Cap: cfg.BackoffCap, OutageCap: cfg.OutageBackoffCap},
		Concurrency: cfg.Workers, Timeout: cfg.ProviderTimeout, Lease: cfg.Lease,
		Wake: due, Log: log, Attempted: metrics.Attempted,
	}
	handler := &provision.Handler{Inbox: st, Wake: signal(due), Log: log, Poisoned: metrics.Poisoned}
	health := service.NewHealth(map[string]func(context.Context) error{"postgres": pool.Ping})
	server, err := listen(cfg, &api.API{
		Store: st, Tokens: service.OneToken("service", cfg.Token), Health: health, Metrics: metrics,
		Log: log, Timeout: cfg.DatabaseTimeout, Faults: cfg.Faults == "on",
	}, log)
	if err != nil {
		return nil, err
	}
	commands := service.Task{Name: "commands", Run: func(ctx context.Context) error {
		return service.Consume(ctx, nc.Conn, service.ConsumerConfig{
			Stream: contract.Stream(contract.Member, contract.Essential), Durable: name,
			Subjects: contract.Subjects(contract.Member, contract.Essential), Batch: commandBatch, Log: log,
		}, handler.Handle)
	}}
	return &service.Process{
		Log: log, Health: health, Servers: []*service.Server{server},
		Relays: relays, Workers: []service.Task{commands, {Name: "worker", Run: worker.Run}},
		Closers:    []func(context.Context) error{nc.Close},
		DrainDelay: cfg.DrainDelay, DrainTimeout: cfg.DrainTimeout,
	}, nil
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

func newRelays(cfg config, pool *pgxpool.Pool, nc *service.NATS, log *slog.Logger) (tasks []service.Task, wake func(), err error) {
	var relays []*outbox.Relay
	for _, lane := range contract.Lanes() {
		r, err := outbox.NewRelay(outbox.RelayConfig{
			Lane: string(lane), Pool: pool, NATS: nc.Conn, Stream: stream(lane, cfg.NATSReplicas),
			Source: "/" + name, SubjectPrefix: contract.SubjectPrefix(lane), Log: log,
		})
		if err != nil {
			return nil, nil, err
		}
		relays = append(relays, r)
		tasks = append(tasks, service.Task{Name: "relay " + string(lane), Run: r.Run})
	}
	return tasks, func() {
		for _, r := range relays {
			r.Wake()
		}
	}, nil
}

func stream(lane contract.Lane, replicas int) jetstream.StreamConfig {
	return outbox.StreamConfig(contract.Stream(contract.Storage, lane), contract.Subjects(contract.Storage, lane), replicas)
}

func newProvider(cfg config, st *store.Store) (provision.Provider, error) {
	var ledger *provider.Ledger
	if cfg.ProviderLedger != "" {
		var err error
		if ledger, err = provider.OpenLedger(cfg.ProviderLedger); err != nil {
			return nil, err
		}
	}
	files, err := provider.NewFS(cfg.ProviderDir, ledger)
	if err != nil {
		return nil, err
	}
	if cfg.Faults == "on" {
		return &provider.Faulty{Provider: files, Load: st.Fault}, nil
	}
	return files, nil
}

func listen(cfg config, a *api.API, log *slog.Logger) (*service.Server, error) {
	s := service.NewServer(service.ServerConfig{Name: "internal", Addr: cfg.Addr, Handler: a.Handler(), Log: log})
	return s, s.Listen()
}

// migrate brings the database up to date and, if NATS is there, the streams'
// configuration.
func migrate(ctx context.Context, cfg MigrateConfig, log *slog.Logger) error {
	sets, err := store.Migrations()
	if err != nil {
		return err
	}
	if err := service.Migrate(ctx, cfg.DatabaseURL, log, sets...); err != nil {
		return err
	}
	nc, err := service.ConnectNATS(cfg.NATSURL, name+" migrate", log)
	if err != nil {
		return err
	}
	defer nc.Conn.Close()
	ctx, cancel := context.WithTimeout(ctx, natsPatience)
	defer cancel()
	js, err := jetstream.New(nc.Conn)
	if err != nil {
		return fmt.Errorf("migrate streams: %w", err)
	}
	service.Loop(ctx, "migrate streams", natsPatience, nil, log, func(ctx context.Context) (bool, error) {
		for _, lane := range contract.Lanes() {
			if _, err := js.CreateOrUpdateStream(ctx, stream(lane, cfg.NATSReplicas)); err != nil {
				return false, err
			}
		}
		log.Info("streams are up to date")
		cancel()
		return false, nil
	})
	return nil
}

// healthcheck asks the server of the same configuration whether it is ready.
func healthcheck(ctx context.Context, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("STORAGE_HTTP_ADDR: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return service.Healthcheck(ctx, "http://"+net.JoinHostPort(host, port)+"/readyz")
}
