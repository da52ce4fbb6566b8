package main

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/drift"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

// reconcileConfig is the configuration of the reconcile subcommand.
type reconcileConfig struct {
	MigrateConfig
	service.Reconciliation
}

// Validate reports everything that is wrong with the configuration.
func (c reconcileConfig) Validate() []error {
	return append(c.MigrateConfig.Validate(), c.Problems()...)
}

func newReconciler(
	c service.Reconciliation, pool *pgxpool.Pool, prov provision.Provider, log *slog.Logger,
) *reconcile.Reconciler {
	settings := reconcile.Config{MinAge: c.ReconcileMinAge, MaxRepairs: service.ReconcileMaxRepairs, Log: log}
	return reconcile.New(settings, pool, prov)
}

// reconcileOnce is the reconcile subcommand: it prints a report, and fails if anything is wrong or was wrong
// before the repair.
func reconcileOnce(ctx context.Context, cfg reconcileConfig, stdout io.Writer, dry bool) error {
	log := service.NewLogger(stdout, cfg.LogFormat, cfg.LogLevel)
	pool, err := program.Database(ctx, cfg.DatabaseURL, cfg.Common, log)
	if err != nil {
		return err
	}
	defer func() { _ = service.ClosePool(context.WithoutCancel(ctx), pool) }()
	prov, err := cfg.open(store.New(pool, nil), nil)
	if err != nil {
		return err
	}
	r := newReconciler(cfg.Reconciliation, pool, prov, log)
	var report drift.Report
	if dry {
		report, err = r.DryRun(ctx)
	} else {
		report, err = r.Run(ctx, 0)
	}
	if err == nil {
		err = report.Write(stdout)
	}
	return errors.Join(err, report.Err())
}

// reconciliationTask compares storages and provider at an interval.
func reconciliationTask(
	cfg config, pool *pgxpool.Pool, prov provision.Provider, registry prometheus.Registerer, log *slog.Logger,
) (service.Task, error) {
	gauges, err := drift.NewGauges(registry,
		prometheus.GaugeOpts{Name: "stranded_storages",
			Help: "Storages that are ready but not at the provider, by the last reconciliation."},
		prometheus.GaugeOpts{Name: "orphan_resources",
			Help: "What the provider has of storages that are removed or unknown, by the last reconciliation."})
	if err != nil {
		return service.Task{}, err
	}
	step := newReconciler(cfg.Reconciliation, pool, prov, log).Schedule(cfg.ReconcileInterval, gauges)
	return service.Task{Name: "reconciliation", Run: func(ctx context.Context) error {
		service.Loop(ctx, "reconciliation", cfg.Tick(), nil, log, step)
		return nil
	}}, nil
}
