package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/account"
	"github.com/signup-saga/signup-saga/member-svc/internal/api"
	"github.com/signup-saga/signup-saga/member-svc/internal/challenge"
	"github.com/signup-saga/signup-saga/member-svc/internal/console"
	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/mail"
	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/webhook"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/replies"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/signuppage"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/stream"
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
	return service.Dispatch(ctx, args, getenv, stdout, map[string]service.Command{
		"serve": service.With(serve),
		"migrate": service.With(func(ctx context.Context, cfg MigrateConfig, stdout io.Writer) error {
			return program.Migrate(ctx, cfg.DatabaseURL, cfg.Common, cfg.Logger(stdout))
		}),
		"broker": service.With(program.KeepBroker),
		"healthcheck": service.With(func(ctx context.Context, cfg ProbeConfig, _ io.Writer) error {
			return service.HealthcheckAddr(ctx, cfg.AdminAddr, cfg.TLSFiles)
		}),
		"reconcile":           service.With(reconcileOnce(false)),
		"reconcile --dry-run": service.With(reconcileOnce(true)),
	})
}

// serve runs the service. To start, it needs Postgres with the current schema, and nothing else.
func serve(ctx context.Context, cfg Config, stdout io.Writer) error {
	log := cfg.Logger(stdout)
	service.LogConfig(log, &cfg)
	tokens, err := service.LoadTokens(cfg.AdminTokensFile, log)
	if err != nil {
		return fmt.Errorf("ADMIN_TOKENS_FILE: %w", err)
	}
	certificate, err := cfg.ServerTLS(log)
	if err != nil {
		return err
	}
	return program.Serve(ctx, cfg.DatabaseURL, cfg.Common, log, func(b *service.Base) error {
		return build(cfg, b, tokens, certificate)
	})
}

// build puts the parts together and binds the listeners.
func build(cfg Config, b *service.Base, tokens *service.Tokens, certificate *tls.Config) error {
	st := store.New(b.Pool, cfg.steps(), []byte(cfg.IdempotencySecret.Reveal()), b.Wake)
	st.Tracer, st.Log = b.Tracer, b.Log
	hasher, err := cfg.hasher()
	if err != nil {
		return err
	}
	metrics := api.NewMetrics(b.Registry, hasher.Waiting)
	metrics.Consumers = b.Lag
	if err := addWorkers(cfg, b, st, metrics); err != nil {
		return err
	}
	tokens.Watch("admin", b.Registry, b.Log)
	hub, pulse := stream.NewHub(st, cfg.steps(), stream.DefaultPace), console.NewPulse(st.Pulse)
	b.Every("signup streams", stream.DefaultPace.Interval, hub.Poll)
	b.Every("console pulse", time.Second, pulse.Poll)
	public, admin, err := pages(cfg, newAPI(cfg, st, hasher, hub, metrics), pulse, tokens, b.Health)
	if err != nil {
		return err
	}
	proxies, err := service.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return err
	}
	listener := service.ServerConfig{TLS: certificate, MaxConnections: cfg.MaxConnections, Proxies: proxies}
	outside, inside := listener, listener
	outside.Name, outside.Public, outside.Addr, outside.Handler = "public", true, cfg.HTTPAddr, public
	inside.Name, inside.Addr, inside.Handler = "admin", cfg.AdminAddr, admin
	return errors.Join(b.Listen(outside), b.Listen(inside))
}

// newAPI returns the API.
func newAPI(
	cfg Config, st *store.Store, hasher *password.Hasher, hub *stream.Hub, metrics *api.Metrics,
) *api.API {
	steps, secret := cfg.steps(), []byte(cfg.IdempotencySecret.Reveal())
	passwords := password.Policy{MinLength: cfg.PasswordMin}
	return &api.API{
		Signups: signup.New(signup.Config{
			Plans: cfg.PlansAllowed, Passwords: passwords, Unicode: cfg.Usernames == "unicode",
			Reserved: signup.ParseReserved(cfg.Names), Secret: secret, DatabaseTimeout: cfg.DatabaseTimeout,
		}, st, hasher, steps),
		Accounts: account.New(account.Config{
			SessionLifetime: cfg.SessionLifetime, DatabaseTimeout: cfg.DatabaseTimeout, Passwords: passwords,
			Log: st.Log,
		}, st, hasher, steps),
		Hub: hub, Store: st, Steps: steps, Metrics: metrics, DatabaseTimeout: cfg.DatabaseTimeout, Log: st.Log,
		Challenges: api.Challenges{Issuer: challenge.NewIssuer(secret), Pressure: hasher.Pressure},
	}
}

// pages returns the handlers of the listeners: their APIs, with the sign-up page and the console beside them.
func pages(
	cfg Config, handlers *api.API, pulse *console.Pulse, tokens *service.Tokens, health *service.Health,
) (public, admin http.Handler, err error) {
	page, err := signuppage.New(
		signuppage.Config{Plans: cfg.PlansAllowed, PasswordMin: cfg.PasswordMin, Log: handlers.Log})
	if err != nil {
		return nil, nil, err
	}
	public = handlers.Public(cfg.limits(), page.Mount)
	admin, err = console.New(console.Config{
		API: handlers.Admin(tokens, health), Pulse: pulse, DemoURL: cfg.ConsoleDemoURL.Reveal(), Log: handlers.Log,
		Sessions: &service.Sessions{
			Tokens: tokens, Secret: []byte(cfg.IdempotencySecret.Reveal()),
			Lifetime: console.SessionLifetime, Ended: handlers.Store,
		},
	})
	return public, admin, err
}

// handler handles the messages of a consumer, see [service.Consume].
type handler func(ctx context.Context, batch []service.Message) error

// addWorkers adds everything that runs besides the requests.
func addWorkers(cfg Config, b *service.Base, st *store.Store, metrics *api.Metrics) error {
	mailer, err := mail.New(mail.Config{
		Server: cfg.server(), From: cfg.MailFrom, Secret: []byte(cfg.IdempotencySecret.Reveal()),
		MaxAttempts: deliveryAttempts, MaxAge: cfg.MailMaxAge, Observe: metrics.Mail, Log: b.Log,
	}, st)
	if err != nil {
		return err
	}
	handlers := map[string]handler{sagaReplies: replies.Handler(st, b.Log, metrics.Reply), welcomes: mailer.Queue}
	b.Every("redrive", time.Second, func(ctx context.Context) (bool, error) {
		n, err := st.Redrive(ctx, cfg.RedrivePerSecond, redriveBatch)
		metrics.Redriven(n)
		return n == redriveBatch, err
	})
	b.Every("group retries", time.Second, st.StepRetry)
	b.Every("welcome mail", time.Second, mailer.Work)
	b.Every("notices of stuck signups", min(max(cfg.StuckAfter/10, time.Second), 10*time.Second),
		func(ctx context.Context) (bool, error) { return false, st.NotifyStuck(ctx, cfg.StuckAfter) })
	forget := func(what string, some func(ctx context.Context, limit int) (int64, error)) {
		b.Every("delete "+what, time.Minute, func(ctx context.Context) (bool, error) {
			n, err := some(ctx, forgetBatch)
			return n == forgetBatch, err
		})
	}
	forget("old mail addresses", st.ForgetMailedAddresses)
	forget("expired keys", st.ForgetExpiredKeys)
	forget("expired sessions", st.ForgetExpiredSessions)
	forget("expired logouts", st.ForgetLogouts)
	b.Every("gauges", 5*time.Second, func(ctx context.Context) (bool, error) { return false, metrics.Refresh(ctx, st) })
	if handlers[webhooks], err = addWebhook(cfg, b, st); err != nil {
		return err
	}
	if cfg.StorageURL.Reveal() != "" {
		addReconciliation(cfg, b, st)
	}
	return addConsumers(b, handlers)
}

// addWebhook adds the webhook of stuck signups, if there is one, and returns the handler of its notices.
func addWebhook(cfg Config, b *service.Base, st *store.Store) (notices handler, err error) {
	if cfg.WebhookURL.Reveal() == "" {
		return nil, nil
	}
	posts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "member_webhooks_total", Help: "Notices of stuck signups by result: sent, delayed, dropped, expired.",
	}, []string{"result"})
	for _, result := range []string{webhook.Sent, webhook.Delayed, webhook.Dropped, webhook.Expired} {
		posts.WithLabelValues(result)
	}
	hook, err := webhook.New(webhook.Config{
		URL: cfg.WebhookURL.Reveal(), Secret: cfg.WebhookSecret.Reveal(), Log: b.Log,
		MaxAttempts: deliveryAttempts, MaxAge: webhookMaxAge,
		Observe: func(result string, n int) { posts.WithLabelValues(result).Add(float64(n)) },
	}, st)
	if err != nil {
		return nil, err
	}
	b.Registry.MustRegister(posts)
	b.Every("webhooks", time.Second, hook.Work)
	return hook.Queue, nil
}

// addConsumers starts every consumer of the program with its handler. It fails if a consumer has no entry in
// handlers, so that none is created but never read. A consumer whose handler is nil is not used in this
// configuration.
func addConsumers(b *service.Base, handlers map[string]handler) error {
	for _, c := range program.Consumers {
		handle, known := handlers[c.Durable]
		if !known {
			return fmt.Errorf("no handler for the messages of consumer %s", c.Durable)
		}
		if handle != nil {
			b.Consume(c, handle)
		}
	}
	// storage-svc reads its commands from our stream: while it does not, our signups wait.
	b.Lag.Watch(contract.Stream(contract.Member, contract.Essential), "storage-svc")
	return nil
}

const (
	// Batches are small, to keep transactions short.
	redriveBatch = 100
	forgetBatch  = 1000

	deliveryAttempts = 20             // of one mail, and of one notice
	webhookMaxAge    = 24 * time.Hour // after which an unsent notice is dropped
)
