package drift

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// Status is the result of the last run that finished, on whichever replica.
type Status struct {
	FinishedAt                 *time.Time // nil: none has finished
	Stranded, Orphans, Doubles int
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

// Gauges expose the [Status]. Every replica shows the same values.
type Gauges struct {
	found    []prometheus.Gauge // stranded, orphans and, if there is a third, doubles
	finished prometheus.Gauge
}

// NewGauges registers a gauge for each of found: stranded, orphans and, if there is a third, doubles; and
// reconciliation_finished_timestamp_seconds. It fails only if they are registered already.
func NewGauges(registry prometheus.Registerer, found ...prometheus.GaugeOpts) (*Gauges, error) {
	g := &Gauges{finished: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "reconciliation_finished_timestamp_seconds",
		Help: "When the last reconciliation ended; 0 if there was none.",
	})}
	errs := []error{registry.Register(g.finished)}
	for _, opts := range found {
		gauge := prometheus.NewGauge(opts)
		g.found, errs = append(g.found, gauge), append(errs, registry.Register(gauge))
	}
	return g, errors.Join(errs...)
}

func (g *Gauges) set(s Status) {
	counts := []int{s.Stranded, s.Orphans, s.Doubles}
	for i, gauge := range g.found {
		gauge.Set(float64(counts[i]))
	}
	if s.FinishedAt != nil {
		g.finished.Set(float64(s.FinishedAt.Unix()))
	}
}

// Schedule returns a loop step that begins a run when the last one, on any replica, finished at least every ago
// (see [Reconciler.Run]), and then updates g.
func (r *Reconciler[L, R]) Schedule(every time.Duration, g *Gauges) func(context.Context) (more bool, err error) {
	return func(ctx context.Context) (bool, error) {
		report, err := r.Run(ctx, every)
		switch {
		case err == nil && report.Err() != nil:
			r.Log.Warn("reconciled", "stranded", report.Stranded, "orphans", report.Orphans, "doubles", report.Doubles,
				"mended", report.Mended)
		case err != nil && !errors.Is(err, ErrBusy) && ctx.Err() == nil:
			r.Log.Warn("reconciliation put off", "error", err)
		}
		status, err := ReadStatus(ctx, r.Pool)
		if err == nil {
			g.set(status)
		}
		return false, err
	}
}
