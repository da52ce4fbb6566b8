package main

import (
	"context"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/reconcile"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	storages "github.com/signup-saga/signup-saga/storage-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

// reconcileConfig is the configuration of the reconcile subcommand.
type reconcileConfig struct {
	MigrateConfig
	reconcile.Config
}

// reconcileOnce returns the reconcile subcommand.
func reconcileOnce(dry bool) func(context.Context, reconcileConfig, io.Writer) error {
	return func(ctx context.Context, cfg reconcileConfig, stdout io.Writer) error {
		log := cfg.Logger(stdout)
		return program.WithDatabase(ctx, cfg.DatabaseURL, cfg.Common, log, func(pool *pgxpool.Pool) error {
			prov, err := cfg.newPlace(store.New(pool, nil), nil)
			if err != nil {
				return err
			}
			report, err := storages.New(cfg.Config, pool, prov, log).Check(ctx, dry)
			return reconcile.Print(stdout, report, err)
		})
	}
}

// addReconciliation compares storages and provider at an interval.
func addReconciliation(cfg reconcile.Config, b *service.Base, prov provision.Provider) {
	storages.New(cfg, b.Pool, prov, b.Log).AddTo(b,
		prometheus.GaugeOpts{Name: "stranded_storages",
			Help: "Storages that are ready but not at the provider, by the last reconciliation."},
		prometheus.GaugeOpts{Name: "orphan_resources",
			Help: "Resources at the provider of storages that are removed or unknown, by the last reconciliation."})
}
