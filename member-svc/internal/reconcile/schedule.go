package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Gauges show what the last whole run found, in every replica alike.
type Gauges struct {
	stranded, orphans, doubles, finished prometheus.Gauge
}

// NewGauges registers the gauges. It fails only if they are registered already.
func NewGauges(registry prometheus.Registerer) (*Gauges, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	g := &Gauges{
		stranded: gauge("stranded_members", "Members who are ready but have no storage, by the last reconciliation."),
		orphans:  gauge("orphan_storages", "Storages whose member left or is unknown, by the last reconciliation."),
		doubles:  gauge("double_storages", "Storages of another saga of their member, by the last reconciliation."),
		finished: gauge("reconciliation_finished_timestamp_seconds", "When members and storages were compared last; 0 if never."),
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
func (r *Reconciler) Schedule(every time.Duration, g *Gauges) func(context.Context) (more bool, err error) {
	return func(ctx context.Context) (bool, error) {
		report, err := r.Run(ctx, every)
		switch {
		case err == nil && report.Err() != nil:
			r.cfg.Log.Warn("reconciled", "accepted", report.Accepted, "stranded", report.Stranded, "orphans", report.Orphans,
				"doubles", report.Doubles, "commanded_again", report.CommandedAgain)
		case err != nil && !errors.Is(err, ErrBusy) && ctx.Err() == nil:
			r.cfg.Log.Warn("reconciliation put off", "error", err)
		}
		status, err := ReadStatus(ctx, r.pool)
		if err == nil {
			g.set(status)
		}
		return false, err
	}
}
