package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/webhook"
	members "github.com/signup-saga/signup-saga/member-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/reconcile"
)

// ReconcileConfig configures the reconciliation of members with storages.
type ReconcileConfig struct {
	reconcile.Config
	StorageURL   service.Secret `env:"STORAGE_URL" help:"internal listener of storage-svc, http://host:port; without it nothing is reconciled"`
	StorageToken service.Secret `env:"STORAGE_CLIENT_TOKEN" help:"the STORAGE_TOKEN of storage-svc"`
}

// Validate implements [service.Validator].
func (c ReconcileConfig) Validate(check *service.Checks) {
	if u := c.StorageURL.Reveal(); u != "" {
		check.NoError("STORAGE_URL", webhook.CheckURL(u))
	}
}

// reconciler returns the reconciler of members with the participants, which are in the order of their steps.
func (c ReconcileConfig) reconciler(
	pool *pgxpool.Pool, st *store.Store, steps saga.Steps, log *slog.Logger,
) *members.Reconciler {
	return members.New(c.Config, pool, st, steps, log,
		members.NewStorages(c.StorageURL.Reveal(), c.StorageToken.Reveal()))
}

// reconcileConfig is the configuration of the reconcile subcommand.
type reconcileConfig struct {
	MigrateConfig
	ReconcileConfig
	StepConfig
}

// Validate implements [service.Validator].
func (c reconcileConfig) Validate(check *service.Checks) {
	check.Require(c.StorageURL.Reveal() != "", "STORAGE_URL: required by reconcile")
	check.Require(c.StorageToken.Reveal() != "", "STORAGE_CLIENT_TOKEN: required by reconcile")
}

// reconcileOnce returns the reconcile subcommand.
func reconcileOnce(dry bool) func(context.Context, reconcileConfig, io.Writer) error {
	return func(ctx context.Context, cfg reconcileConfig, stdout io.Writer) error {
		log := cfg.Logger(stdout)
		return program.WithDatabase(ctx, cfg.DatabaseURL, cfg.Common, log, func(pool *pgxpool.Pool) error {
			st := store.New(pool, cfg.steps(), nil, nil)
			books, err := cfg.reconciler(pool, st, cfg.steps(), log).Check(ctx, dry)
			return reconcile.Print(stdout, books, err)
		})
	}
}

// addReconciliation compares members and storages at an interval.
func addReconciliation(cfg Config, b *service.Base, st *store.Store) {
	cfg.reconciler(b.Pool, st, cfg.steps(), b.Log).AddTo(b,
		prometheus.GaugeOpts{Name: "stranded_members",
			Help: "Members who are ready but have no storage, by the last reconciliation."},
		prometheus.GaugeOpts{Name: "orphan_storages",
			Help: "Storages whose member left or is unknown, by the last reconciliation."},
		prometheus.GaugeOpts{Name: "double_storages",
			Help: "Storages of another saga of their member, by the last reconciliation."})
}
