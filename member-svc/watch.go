package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/member-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/stuck"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/drift"
)

// ReconcileConfig configures the reconciliation of members with storages.
type ReconcileConfig struct {
	service.Reconciliation
	StorageURL   service.Secret `env:"STORAGE_URL" help:"internal listener of storage-svc, http://host:port; without it nothing is reconciled"`
	StorageToken service.Secret `env:"STORAGE_CLIENT_TOKEN" help:"the STORAGE_TOKEN of storage-svc"`
}

func (c ReconcileConfig) problems() []error {
	errs := c.Problems()
	if u := c.StorageURL.Reveal(); u != "" {
		if err := stuck.CheckURL(u); err != nil {
			errs = append(errs, fmt.Errorf("STORAGE_URL: %w", err))
		}
	}
	return errs
}

// reconciler returns the reconciler of members with the participants, which are in the order of their steps.
func (c ReconcileConfig) reconciler(
	pool *pgxpool.Pool, steps saga.Steps, wake func(), log *slog.Logger,
) *reconcile.Reconciler {
	cfg := reconcile.Config{MinAge: c.ReconcileMinAge, MaxRepairs: service.ReconcileMaxRepairs, Wake: wake, Log: log}
	return reconcile.New(cfg, pool, steps, reconcile.NewStorages(c.StorageURL.Reveal(), c.StorageToken.Reveal()))
}

const (
	deliveryAttempts = 20             // of one mail, and of one notice
	webhookMaxAge    = 24 * time.Hour // after which an unsent notice is dropped
)

// StuckConfig configures the notices of stuck signups.
type StuckConfig struct {
	StuckAfter    time.Duration  `env:"STUCK_AFTER" envDefault:"15m" help:"after which an unanswered signup is told of with signup.stuck"`
	WebhookURL    service.Secret `env:"STUCK_WEBHOOK_URL" help:"receives each signup.stuck; without it nothing is sent"`
	WebhookSecret service.Secret `env:"STUCK_WEBHOOK_SECRET" help:"signs them as standardwebhooks.com says: whsec_ and 24 to 64 bytes in base64"`
}

func (c StuckConfig) problems() (errs []error) {
	if c.StuckAfter <= 0 {
		errs = append(errs, errors.New("STUCK_AFTER: must be positive"))
	}
	if u := c.WebhookURL.Reveal(); u != "" {
		if err := stuck.CheckURL(u); err != nil {
			errs = append(errs, fmt.Errorf("STUCK_WEBHOOK_URL: %w", err))
		}
		if _, err := stuck.ParseSecret(c.WebhookSecret.Reveal()); err != nil {
			errs = append(errs, fmt.Errorf("STUCK_WEBHOOK_SECRET: %w", err))
		}
	}
	return errs
}

// reconcileConfig is the configuration of the reconcile subcommand.
type reconcileConfig struct {
	MigrateConfig
	ReconcileConfig
	StepConfig
}

// Validate returns everything that is wrong with the configuration.
func (c reconcileConfig) Validate() []error {
	errs := slices.Concat(c.MigrateConfig.Validate(), c.ReconcileConfig.problems(), c.StepConfig.problems())
	for name, value := range map[string]service.Secret{
		"STORAGE_URL": c.StorageURL, "STORAGE_CLIENT_TOKEN": c.StorageToken,
	} {
		if value.Reveal() == "" {
			errs = append(errs, fmt.Errorf("%s: required by reconcile", name))
		}
	}
	return errs
}

// reconcileOnce is the reconcile subcommand: it prints a report, and fails if anything was wrong, even if it
// was repaired.
func reconcileOnce(ctx context.Context, cfg reconcileConfig, stdout io.Writer, dry bool) error {
	log := service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel)
	pool, err := program.Database(ctx, cfg.DatabaseURL, cfg.Common, log)
	if err != nil {
		return err
	}
	defer func() { _ = service.ClosePool(context.WithoutCancel(ctx), pool) }()
	books, err := cfg.reconciler(pool, cfg.steps(), nil, log).Check(ctx, dry)
	if err != nil {
		return err
	}
	if err := books.Write(stdout); err != nil {
		return err
	}
	return books.Err()
}

// addWatchers adds the workers that look for signups that do not progress. It returns the handler of notices of
// stuck signups, or nil if there is no webhook.
func addWatchers(
	cfg Config, pool *pgxpool.Pool, registry prometheus.Registerer, wake func(), log *slog.Logger, loop loopFunc,
) (notices handler, err error) {
	loop("notices of stuck signups", min(max(cfg.StuckAfter/10, time.Second), 10*time.Second),
		stuck.Notices(pool, cfg.StuckAfter, wake))
	if cfg.WebhookURL.Reveal() != "" {
		posts := prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "member_webhooks_total", Help: "Notices of stuck signups by result: sent, delayed, dropped, expired.",
		}, []string{"result"})
		for _, result := range []string{stuck.Sent, stuck.Delayed, stuck.Dropped, stuck.Expired} {
			posts.WithLabelValues(result)
		}
		webhook, err := stuck.NewWebhook(stuck.WebhookConfig{
			URL: cfg.WebhookURL.Reveal(), Secret: cfg.WebhookSecret.Reveal(), Log: log,
			MaxAttempts: deliveryAttempts, MaxAge: webhookMaxAge,
			Observe: func(result string, n int) { posts.WithLabelValues(result).Add(float64(n)) },
		}, pool)
		if err != nil {
			return nil, err
		}
		if err := registry.Register(posts); err != nil {
			return nil, err
		}
		notices = webhook.Queue
		loop("webhooks", time.Second, webhook.Work)
	}
	if cfg.StorageURL.Reveal() == "" {
		return notices, nil
	}
	gauges, err := drift.NewGauges(registry,
		prometheus.GaugeOpts{Name: "stranded_members",
			Help: "Members who are ready but have no storage, by the last reconciliation."},
		prometheus.GaugeOpts{Name: "orphan_storages",
			Help: "Storages whose member left or is unknown, by the last reconciliation."},
		prometheus.GaugeOpts{Name: "double_storages",
			Help: "Storages of another saga of their member, by the last reconciliation."})
	if err != nil {
		return nil, err
	}
	reconciler := cfg.reconciler(pool, cfg.steps(), wake, log)
	loop("reconciliation", cfg.Tick(), reconciler.Schedule(cfg.ReconcileInterval, gauges))
	return notices, nil
}
