package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/account"
	"github.com/signup-saga/signup-saga/member-svc/internal/api"
	"github.com/signup-saga/signup-saga/member-svc/internal/challenge"
	"github.com/signup-saga/signup-saga/member-svc/internal/console"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/replies"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/signuppage"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/stream"
	"github.com/signup-saga/signup-saga/member-svc/internal/welcome"
	"github.com/signup-saga/signup-saga/service"
)

var program = service.Program{
	Name: "member-svc", Producer: contract.Member, Migrations: store.Migrations,
	Consumers: []service.ConsumerConfig{
		consumer(contract.Storage, contract.Essential, sagaReplies, nil),
		consumer(contract.Storage, contract.NonEssential, sagaReplies, nil),
		consumer(contract.Member, contract.NonEssential, welcomes, signedUp),
		consumer(contract.Member, contract.NonEssential, webhooks, signupStuck),
	},
}

// The durable consumers, named by what handles their messages, see addWorkers.
const (
	sagaReplies = "member-svc"
	welcomes    = "member-welcome"
	webhooks    = "member-webhook"
)

// The subjects of the program's own events that it consumes.
var (
	signedUp    = []string{contract.SubjectPrefix(contract.NonEssential) + string(contract.MemberSignedUp)}
	signupStuck = []string{contract.SubjectPrefix(contract.NonEssential) + string(contract.SignupStuck)}
)

// consumer configures a durable consumer. All have the same batch size.
func consumer(producer contract.Service, lane contract.Lane, durable string, subjects []string) service.ConsumerConfig {
	return service.ConsumerConfig{
		Stream: contract.Stream(producer, lane), Durable: durable, Subjects: subjects, Batch: 100,
		Linger: service.Linger(lane),
	}
}

// run is the whole program except for the process around it.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	if len(args) > 0 && args[0] == "admin-token" {
		return adminToken(args[1:], stdout)
	}
	return service.Dispatch(args, getenv, stdout, map[string]service.Command{
		"serve": service.With(func(cfg Config, stdout io.Writer) error {
			return serve(ctx, cfg, service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel))
		}),
		"migrate": service.With(func(cfg MigrateConfig, stdout io.Writer) error {
			return program.Migrate(ctx, cfg.DatabaseURL, cfg.Common,
				service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel))
		}),
		"broker": service.With(func(cfg service.Common, stdout io.Writer) error {
			return program.KeepBroker(ctx, cfg, service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel))
		}),
		"healthcheck": service.With(func(cfg ProbeConfig, _ io.Writer) error {
			return service.HealthcheckAddr(ctx, cfg.AdminAddr, cfg.TLSFiles)
		}),
		"reconcile": service.With(func(cfg reconcileConfig, stdout io.Writer) error {
			return reconcileOnce(ctx, cfg, stdout, false)
		}),
		"reconcile --dry-run": service.With(func(cfg reconcileConfig, stdout io.Writer) error {
			return reconcileOnce(ctx, cfg, stdout, true)
		}),
	})
}

// serve runs the service. To start, it needs Postgres with the current schema, and nothing else.
func serve(ctx context.Context, cfg Config, log *slog.Logger) error {
	service.LogConfig(log, &cfg)
	tokens, err := service.LoadTokens(cfg.AdminTokensFile, log)
	if err != nil {
		return fmt.Errorf("ADMIN_TOKENS_FILE: %w", err)
	}
	certificate, err := cfg.ServerTLS(log)
	if err != nil {
		return err
	}
	pool, nc, tracer, err := program.Connect(ctx, cfg.DatabaseURL, cfg.Common, log)
	if err != nil {
		return err
	}
	closers := service.Closers(pool, nc, tracer)
	p, err := assemble(cfg, pool, nc, tracer, tokens, certificate, log)
	if err != nil {
		service.CloseAll(closers)
		return err
	}
	p.Closers = closers
	return p.Run(ctx)
}

// assemble puts the parts together and binds the listeners.
func assemble(cfg Config, pool *pgxpool.Pool, nc *service.NATS, tracer *service.Tracer,
	tokens *service.Tokens, certificate *tls.Config, log *slog.Logger,
) (p *service.Process, err error) {
	p = &service.Process{
		Log: log, DrainDelay: cfg.DrainDelay, DrainTimeout: cfg.DrainTimeout,
		Health: service.NewHealth(map[string]func(context.Context) error{"postgres": service.Writable(pool)}),
	}
	var wake func()
	registry := prometheus.NewRegistry()
	if p.Relays, wake, err = program.Relays(pool, nc, cfg.Common, tracer, registry, log); err != nil {
		return nil, err
	}
	st := store.New(pool, cfg.steps(), []byte(cfg.IdempotencySecret.Reveal()), wake)
	st.Tracer, st.Log = tracer, log
	hasher, err := cfg.hasher()
	if err != nil {
		return nil, err
	}
	metrics, err := api.NewMetrics(registry, hasher.Waiting)
	if err != nil {
		return nil, err
	}
	if metrics.Consumers, err = service.NewLag(nc.Conn, registry, log); err != nil {
		return nil, err
	}
	if err := addWorkers(p, cfg, pool, nc, st, metrics, registry, wake); err != nil {
		return nil, err
	}
	if err := tokens.Watch("admin", registry, log); err != nil {
		return nil, err
	}
	public, admin, err := pages(p, cfg, newAPI(p, cfg, st, hasher, metrics), tokens)
	if err != nil {
		return nil, err
	}
	proxies, err := service.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	p.Servers = []*service.Server{
		service.NewServer(service.ServerConfig{
			Name: "public", Public: true, Addr: cfg.HTTPAddr, Handler: public,
			TLS: certificate, Tracer: tracer, Log: log, MaxConnections: cfg.MaxConnections, Proxies: proxies,
		}),
		service.NewServer(service.ServerConfig{
			Name: "admin", Addr: cfg.AdminAddr, Handler: admin,
			TLS: certificate, Tracer: tracer, Log: log, MaxConnections: cfg.MaxConnections, Proxies: proxies,
		}),
	}
	for _, s := range p.Servers {
		if err := s.Listen(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// newAPI returns the API, and adds the worker that feeds its signup streams to p.
func newAPI(p *service.Process, cfg Config, st *store.Store, hasher *password.Hasher, metrics *api.Metrics) *api.API {
	steps := cfg.steps()
	hub := stream.NewHub(st, steps, stream.DefaultPace)
	p.Workers = append(p.Workers,
		service.Task{Name: "signup streams", Run: func(ctx context.Context) error { return hub.Run(ctx, p.Log) }})
	signups := signup.New(signup.Config{
		Plans: cfg.PlansAllowed, Passwords: password.Policy{MinLength: cfg.PasswordMin},
		Unicode:  cfg.Usernames == "unicode",
		Reserved: signup.ParseReserved(cfg.Names),
		Secret:   []byte(cfg.IdempotencySecret.Reveal()), DatabaseTimeout: cfg.DatabaseTimeout,
	}, st, hasher, steps)
	return &api.API{
		Signups: signups,
		Accounts: account.New(account.Config{
			SessionLifetime: cfg.SessionLifetime, DatabaseTimeout: cfg.DatabaseTimeout,
			Passwords: password.Policy{MinLength: cfg.PasswordMin}, Log: p.Log,
		}, st, hasher, steps),
		Live: hub, Store: st, Steps: steps, Metrics: metrics, DatabaseTimeout: cfg.DatabaseTimeout, Log: p.Log,
		Challenges: api.Challenges{
			Issuer: challenge.NewIssuer([]byte(cfg.IdempotencySecret.Reveal())), Pressure: hasher.Pressure,
		},
	}
}

// pages returns the handlers of the listeners: their APIs, with the sign-up page and the console on top.
func pages(
	p *service.Process, cfg Config, handlers *api.API, tokens *service.Tokens,
) (public, admin http.Handler, err error) {
	page, err := signuppage.New(
		signuppage.Config{Plans: cfg.PlansAllowed, PasswordMin: cfg.PasswordMin, Log: p.Log})
	if err != nil {
		return nil, nil, err
	}
	public = handlers.Public(cfg.limits(), page.Mount)
	pulse := console.NewPulse(handlers.Store.Pulse, time.Second)
	p.Workers = append(p.Workers,
		service.Task{Name: "console pulse", Run: func(ctx context.Context) error { return pulse.Run(ctx, p.Log) }})
	admin, err = console.New(console.Config{
		API: handlers.Admin(tokens, p.Health), Pulse: pulse, DemoURL: cfg.ConsoleDemoURL.Reveal(), Log: p.Log,
		Sessions: &service.Sessions{
			Tokens: tokens, Secret: []byte(cfg.IdempotencySecret.Reveal()),
			Lifetime: console.SessionLifetime, Ended: handlers.Store,
		},
	})
	return public, admin, err
}

// loopFunc adds a worker that repeats fn, see [service.Loop].
type loopFunc func(name string, every time.Duration, fn func(context.Context) (bool, error))

// handler handles the messages of a consumer, see [service.Consume].
type handler func(ctx context.Context, batch []service.Message) error

// addWorkers adds everything that runs besides the requests.
func addWorkers(p *service.Process, cfg Config, pool *pgxpool.Pool, nc *service.NATS, st *store.Store,
	metrics *api.Metrics,
	registry prometheus.Registerer, wake func(),
) error {
	mailer, err := welcome.New(welcome.Config{
		Server: cfg.server(), From: cfg.MailFrom, Secret: []byte(cfg.IdempotencySecret.Reveal()),
		MaxAttempts: deliveryAttempts, MaxAge: cfg.MailMaxAge, Observe: metrics.Mail, Log: p.Log,
	}, pool)
	if err != nil {
		return err
	}
	loop := func(name string, every time.Duration, fn func(context.Context) (bool, error)) {
		p.Workers = append(p.Workers, service.Periodic(name, every, p.Log, fn))
	}
	handlers := map[string]handler{sagaReplies: replies.Handler(st, p.Log, metrics.Reply), welcomes: mailer.Queue}
	loop("redrive", time.Second, func(ctx context.Context) (bool, error) {
		n, err := st.Redrive(ctx, cfg.RedrivePerSecond, redriveBatch)
		metrics.Redriven(n)
		return n == redriveBatch, err
	})
	loop("group retries", time.Second, st.StepRetry)
	loop("welcome mail", time.Second, mailer.Work)
	loop("forget mailed addresses", time.Minute, mailer.Forget)
	forget := func(what string, some func(ctx context.Context, limit int) (int64, error)) {
		loop("forget "+what, time.Minute, func(ctx context.Context) (bool, error) {
			n, err := some(ctx, forgetBatch)
			return n == forgetBatch, err
		})
	}
	forget("keys", st.ForgetExpiredKeys)
	forget("sessions", st.ForgetExpiredSessions)
	forget("logouts", st.ForgetLogouts)
	loop("gauges", 5*time.Second, func(ctx context.Context) (bool, error) { return false, metrics.Refresh(ctx, st) })
	if handlers[webhooks], err = addWatchers(cfg, pool, registry, wake, p.Log, loop); err != nil {
		return err
	}
	if cfg.StorageURL.Reveal() != "" {
		reconciliation, err := reconciliationTask(cfg, pool, wake, registry, p.Log)
		if err != nil {
			return err
		}
		p.Workers = append(p.Workers, reconciliation)
	}
	return addConsumers(p, cfg, nc, st, metrics.Consumers, handlers)
}

// addConsumers starts every consumer of the program with its handler. It fails if a consumer has no entry in
// handlers, so that none is created but never read. A consumer whose handler is nil is not used in this
// configuration.
func addConsumers(
	p *service.Process, cfg Config, nc *service.NATS, st *store.Store, lag *service.Lag, handlers map[string]handler,
) error {
	for _, c := range program.Consumers {
		handle, known := handlers[c.Durable]
		if !known {
			return fmt.Errorf("nothing handles the messages of consumer %s", c.Durable)
		}
		if handle == nil {
			continue
		}
		c.External, c.Log, c.Tracer = cfg.External(), p.Log, st.Tracer
		lag.Watch(c.Stream, c.Durable)
		run := func(ctx context.Context) error { return service.Consume(ctx, nc.Conn, c, handle) }
		p.Workers = append(p.Workers, service.Task{Name: "consume " + c.Stream, Run: run})
	}
	// storage-svc reads its commands from our stream: while it does not, our signups wait.
	lag.Watch(contract.Stream(contract.Member, contract.Essential), "storage-svc")
	p.Workers = append(p.Workers, service.Task{Name: "lag of consumers", Run: lag.Run})
	return nil
}

// Batches are small, to keep transactions short.
const (
	redriveBatch = 100
	forgetBatch  = 1000
)
