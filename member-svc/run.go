package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/api"
	"github.com/signup-saga/signup-saga/member-svc/internal/drive"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/welcome"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

const name = "member-svc"

// run is the whole program: serve, migrate or healthcheck.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	command := ""
	if len(args) == 1 {
		command = args[0]
	}
	switch command {
	case "serve":
		var cfg Config
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
		var cfg struct {
			AdminAddr string `env:"MEMBER_ADMIN_ADDR" envDefault:"127.0.0.1:8081"`
		}
		if err := service.LoadConfig(getenv, &cfg); err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(cfg.AdminAddr)
		if err != nil {
			return fmt.Errorf("MEMBER_ADMIN_ADDR: %w", err)
		}
		return service.Healthcheck(ctx, "http://"+net.JoinHostPort("127.0.0.1", port)+"/readyz")
	default:
		return errors.New("usage: member-svc serve|migrate|healthcheck (configuration comes from the environment)")
	}
}

// migrations are the outbox's, then our own.
func migrations() ([]service.MigrationSet, error) {
	lanes, err := fs.Sub(outbox.Migrations, "migrations")
	if err != nil {
		return nil, err
	}
	members, err := fs.Sub(store.Migrations, "migrations")
	return []service.MigrationSet{{FS: lanes, Table: "outbox_version"}, {FS: members, Table: "member_version"}}, err
}

func stream(lane contract.Lane, replicas int) jetstream.StreamConfig {
	return outbox.StreamConfig(contract.Stream(contract.Member, lane), contract.Subjects(contract.Member, lane), replicas)
}

// migrate brings the schema up to date and, if the broker is there, its streams;
// otherwise the relays create them when it comes.
func migrate(ctx context.Context, cfg MigrateConfig, log *slog.Logger) error {
	sets, err := migrations()
	if err != nil {
		return err
	}
	if err := service.Migrate(ctx, cfg.DatabaseURL, log, sets...); err != nil {
		return err
	}
	nc, err := service.ConnectNATS(cfg.NATSURL, name, log)
	if err != nil {
		return err
	}
	defer nc.Conn.Close()
	js, err := jetstream.New(nc.Conn)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, lane := range contract.Lanes() {
		if _, err := js.CreateOrUpdateStream(ctx, stream(lane, cfg.NATSReplicas)); err != nil {
			log.Warn("streams not configured; serve creates them when the broker is there", "error", err)
			return nil
		}
	}
	return nil
}

// serve waits for Postgres and its schema, and for nothing else.
func serve(ctx context.Context, cfg Config, log *slog.Logger) error {
	tokens, err := service.LoadTokens(cfg.AdminTokensFile)
	if err != nil {
		return fmt.Errorf("ADMIN_TOKENS_FILE: %w", err)
	}
	sets, err := migrations()
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
	defer nc.Conn.Close()
	p := &service.Process{
		Log: log, DrainDelay: cfg.DrainDelay, DrainTimeout: cfg.DrainTimeout,
		Health:  service.NewHealth(map[string]func(context.Context) error{"postgres": pool.Ping}),
		Closers: []func(context.Context) error{nc.Close},
	}
	wake, err := addRelays(p, cfg, pool, nc)
	if err != nil {
		return err
	}
	step := saga.Provision(cfg.ProvisionPromise, cfg.SagaGiveUp)
	st := store.New(pool, step, wake)
	hasher := signup.NewHasher(hashConfig(cfg))
	metrics, err := api.NewMetrics(hasher.Waiting)
	if err != nil {
		return err
	}
	if err := addWorkers(p, cfg, pool, nc, st, metrics); err != nil {
		return err
	}
	handlers := &api.API{
		Signups: signup.New(signup.Config{
			Plans: cfg.PlansAllowed, PasswordMin: cfg.PasswordMin, Secret: []byte(cfg.IdempotencySecret), DatabaseTimeout: cfg.DatabaseTimeout,
		}, st, hasher, step),
		Store: st, Step: step, Metrics: metrics, DatabaseTimeout: cfg.DatabaseTimeout, Log: log,
	}
	p.Servers = []*service.Server{
		service.NewServer(service.ServerConfig{Name: "public", Addr: cfg.HTTPAddr, Handler: handlers.Public(cfg.SignupRate), Log: log}),
		service.NewServer(service.ServerConfig{Name: "admin", Addr: cfg.AdminAddr, Handler: handlers.Admin(tokens, p.Health), Log: log}),
	}
	for _, s := range p.Servers {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	return p.Run(ctx)
}

func hashConfig(cfg Config) signup.HashConfig {
	concurrency := cfg.HashConcurrency
	if concurrency == 0 {
		concurrency = runtime.GOMAXPROCS(0)
	}
	return signup.HashConfig{
		MemoryKiB: cfg.HashMemoryKiB, Time: cfg.HashTime, Parallelism: cfg.HashParallelism,
		Concurrency: concurrency, Wait: cfg.HashQueueWait,
	}
}

// addRelays adds one relay per lane and returns what wakes them.
func addRelays(p *service.Process, cfg Config, pool *pgxpool.Pool, nc *service.NATS) (wake func(), err error) {
	var wakes []func()
	for _, lane := range contract.Lanes() {
		relay, err := outbox.NewRelay(outbox.RelayConfig{
			Lane: string(lane), Pool: pool, NATS: nc.Conn, Stream: stream(lane, cfg.NATSReplicas),
			Source: "/" + name, SubjectPrefix: contract.SubjectPrefix(lane), Log: p.Log,
		})
		if err != nil {
			return nil, err
		}
		wakes = append(wakes, relay.Wake)
		p.Relays = append(p.Relays, service.Task{Name: "relay " + string(lane), Run: relay.Run})
	}
	return func() {
		for _, w := range wakes {
			w()
		}
	}, nil
}

// addWorkers adds everything that goes on beside the requests.
func addWorkers(p *service.Process, cfg Config, pool *pgxpool.Pool, nc *service.NATS, st *store.Store, metrics *api.Metrics) error {
	mailer, err := welcome.New(welcome.Config{
		Addr: cfg.SMTPAddr, From: cfg.MailFrom, MaxAttempts: cfg.MailMaxAttempts, MaxAge: cfg.MailMaxAge, Observe: metrics.Mail, Log: p.Log,
	}, pool)
	if err != nil {
		return err
	}
	consume := func(producer contract.Service, lane contract.Lane, durable string, subjects []string, handle func(context.Context, []service.Message) error) {
		stream := contract.Stream(producer, lane)
		p.Workers = append(p.Workers, service.Task{Name: "consume " + stream, Run: func(ctx context.Context) error {
			return service.Consume(ctx, nc.Conn, service.ConsumerConfig{Stream: stream, Durable: durable, Subjects: subjects, Batch: 100, Log: p.Log}, handle)
		}})
	}
	loop := func(name string, every time.Duration, fn func(context.Context) (bool, error)) {
		p.Workers = append(p.Workers, service.Task{Name: name, Run: func(ctx context.Context) error {
			service.Loop(ctx, name, every, nil, p.Log, fn)
			return nil
		}})
	}
	replies := drive.Replies(st, p.Log, metrics.Reply)
	consume(contract.Storage, contract.Essential, name, nil, replies)
	consume(contract.Storage, contract.NonEssential, name, nil, replies)
	consume(contract.Member, contract.NonEssential, "member-welcome", []string{contract.SubjectPrefix(contract.NonEssential) + string(contract.MemberSignedUp)}, mailer.Queue)
	loop("redrive", time.Second, func(ctx context.Context) (bool, error) {
		n, err := st.Redrive(ctx, cfg.RedrivePerSecond, redriveBatch)
		metrics.Redriven(n)
		return n == redriveBatch, err
	})
	loop("welcome mail", time.Second, mailer.Work)
	loop("forget keys", time.Minute, func(ctx context.Context) (bool, error) {
		n, err := st.ForgetExpiredKeys(ctx, forgetBatch)
		return n == forgetBatch, err
	})
	loop("gauges", 5*time.Second, func(ctx context.Context) (bool, error) { return false, metrics.Refresh(ctx, st, pool) })
	return nil
}

// Batches small enough for short transactions.
const (
	redriveBatch = 100
	forgetBatch  = 1000
)
