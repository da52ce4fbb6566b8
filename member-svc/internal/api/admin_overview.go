package api

import (
	"net/http"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

func (a *API) showOverview(w http.ResponseWriter, r *http.Request) error {
	if err := service.ReadQuery(r, nil); err != nil {
		return err
	}
	o, err := a.Store.Overview(r.Context())
	if err != nil {
		return err
	}
	age := func(since time.Time) float64 { return max(0, o.Now.Sub(since).Seconds()) }
	v := wire.Overview{
		At: o.Now.UTC(), Counts: make(map[string]int, len(o.Counts)), Estimated: []string{}, Breaker: o.Provider,
		Stranded: o.Drift.Stranded, Orphans: o.Drift.Orphans, ReconciledAt: o.Drift.FinishedAt, Minutes: o.Minutes,
		Consumers: a.Metrics.Consumers.Consumers(),
	}
	for state, n := range o.Counts {
		v.Counts[string(state)] = n
	}
	for _, state := range o.Estimated {
		v.Estimated = append(v.Estimated, string(state))
	}
	if o.OldestPending != nil {
		seconds := age(*o.OldestPending)
		v.OldestPending = &seconds
	}
	for _, lane := range contract.Lanes() {
		status := o.Lanes[lane]
		view := wire.Lane{Lane: string(lane), Events: status.Lag}
		if !status.OldestPending.IsZero() {
			view.Seconds = age(status.OldestPending)
		}
		v.Outbox = append(v.Outbox, view)
		v.DeadEvents += status.Dead
	}
	return service.WriteJSON(w, http.StatusOK, v)
}

// listFailures answers with the kinds of failures, the most frequent first.
func (a *API) listFailures(w http.ResponseWriter, r *http.Request) error {
	n := defaultLimit
	if err := service.ReadQuery(r, service.Params{"limit": service.Limit(&n, maxLimit)}); err != nil {
		return err
	}
	found, err := a.Store.Failures(r.Context(), n)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, found)
}
