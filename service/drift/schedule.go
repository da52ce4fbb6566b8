package drift

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// Status is what the last whole run found, whichever replica made it.
type Status struct {
	FinishedAt                 *time.Time // nil: there was none
	Stranded, Orphans, Doubles int
}

// Querier runs one query; pools, connections and transactions do.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadStatus reads it.
func ReadStatus(ctx context.Context, q Querier) (s Status, err error) {
	err = q.QueryRow(ctx, "-- name: reconciliationStatus\nSELECT finished_at, stranded, orphans, doubles FROM reconciliation").
		Scan(&s.FinishedAt, &s.Stranded, &s.Orphans, &s.Doubles)
	if err != nil {
		return s, fmt.Errorf("reconciliation status: %w", err)
	}
	return s, nil
}

// Gauges show the status, in every replica alike.
type Gauges struct {
	stranded, orphans, doubles, finished prometheus.Gauge
}

// NewGauges registers gauges under the given names, and
// reconciliation_finished_timestamp_seconds. It fails only if they are registered already.
func NewGauges(registry prometheus.Registerer, stranded, orphans, doubles prometheus.GaugeOpts) (*Gauges, error) {
	g := &Gauges{
		stranded: prometheus.NewGauge(stranded), orphans: prometheus.NewGauge(orphans), doubles: prometheus.NewGauge(doubles),
		finished: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "reconciliation_finished_timestamp_seconds", Help: "When the last reconciliation ended; 0 if there was none.",
		}),
	}
	return g, errors.Join(registry.Register(g.stranded), registry.Register(g.orphans), registry.Register(g.doubles), registry.Register(g.finished))
}

func (g *Gauges) set(s Status) {
	g.stranded.Set(float64(s.Stranded))
	g.orphans.Set(float64(s.Orphans))
	g.doubles.Set(float64(s.Doubles))
	if s.FinishedAt != nil {
		g.finished.Set(float64(s.FinishedAt.Unix()))
	}
}

// Schedule returns a step for a loop that begins a run when the last one, of any
// replica, began every ago. A run that fails is not repeated before that: what is away
// is not asked all the time.
func (r *Reconciler[L, R]) Schedule(every time.Duration, g *Gauges) func(context.Context) (more bool, err error) {
	return func(ctx context.Context) (bool, error) {
		report, err := r.Run(ctx, every)
		switch {
		case err == nil && report.Err() != nil:
			r.Log.Warn("reconciled", "stranded", report.Stranded, "orphans", report.Orphans, "doubles", report.Doubles, "mended", report.Mended)
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
