package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/service"
)

// checkInterval is how often a replica checks at least whether a run is due.
const checkInterval = 5 * time.Second

// Status is the result of the last run that finished, on whichever replica.
type Status struct {
	FinishedAt                 *time.Time // nil: none has finished
	Stranded, Orphans, Doubles int        // findings of each kind, repaired or not
}

// Querier runs one query; pools, connections and transactions do.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadStatus reads the result of the last run that finished.
func ReadStatus(ctx context.Context, q Querier) (s Status, err error) {
	err = q.QueryRow(ctx,
		"-- name: reconciliationStatus\nSELECT finished_at, stranded, orphans, doubles FROM reconciliation").
		Scan(&s.FinishedAt, &s.Stranded, &s.Orphans, &s.Doubles)
	if err != nil {
		return s, fmt.Errorf("reconciliation status: %w", err)
	}
	return s, nil
}

// AddTo adds a worker to b that begins a run when the last one, on any replica, finished at least
// [Config.Interval] ago (see [Reconciler.Run]). It also registers reconciliation_finished_timestamp_seconds and a
// gauge for each of found: stranded, orphans and, if there is a third, doubles. They show the [Status], in every
// replica alike.
func (r *Reconciler[L, R]) AddTo(b *service.Base, found ...prometheus.GaugeOpts) {
	finished := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "reconciliation_finished_timestamp_seconds",
		Help: "Unix time at which the last reconciliation ended; 0 if there was none.",
	})
	b.Registry.MustRegister(finished)
	var gauges []prometheus.Gauge
	for _, opts := range found {
		gauge := prometheus.NewGauge(opts)
		b.Registry.MustRegister(gauge)
		gauges = append(gauges, gauge)
	}
	b.Every("reconciliation", min(r.Interval, checkInterval), func(ctx context.Context) (more bool, err error) {
		r.runDue(ctx)
		s, err := ReadStatus(ctx, r.Pool)
		if err != nil {
			return false, err
		}
		counts := []int{s.Stranded, s.Orphans, s.Doubles}
		for i, gauge := range gauges {
			gauge.Set(float64(counts[i]))
		}
		if s.FinishedAt != nil {
			finished.Set(float64(s.FinishedAt.Unix()))
		}
		return false, nil
	})
}

// runDue begins a run if one is due, and logs what it found.
func (r *Reconciler[L, R]) runDue(ctx context.Context) {
	report, err := r.Run(ctx, r.Interval)
	switch {
	case err == nil && report.Err() != nil:
		r.Log.Warn("reconciled", "stranded", report.Stranded, "orphans", report.Orphans, "doubles", report.Doubles,
			"repaired", report.Repaired)
	case err != nil && !errors.Is(err, ErrBusy) && ctx.Err() == nil:
		r.Log.Warn("reconciliation put off", "error", err)
	}
}
