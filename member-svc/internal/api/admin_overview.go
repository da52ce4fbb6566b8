package api

import (
	"net/http"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// overviewView is how everything stands.
type overviewView struct {
	At            time.Time            `json:"at"`
	Counts        map[saga.State]int   `json:"counts"`
	Estimated     []saga.State         `json:"estimated"`                  // whose count is an estimate
	OldestPending *float64             `json:"oldest_pending_age_seconds"` // null: nothing is pending
	Outbox        []laneView           `json:"outbox"`
	DeadEvents    int64                `json:"dead_events"`
	Breaker       store.ProviderReport `json:"breaker"`
	Stranded      int                  `json:"stranded"` // by the last reconciliation
	Orphans       int                  `json:"orphans"`
	ReconciledAt  *time.Time           `json:"reconciled_at"` // null: never
	Minutes       []store.Minute       `json:"minutes"`
	// Consumers are those of which the broker said something lately.
	Consumers []service.ConsumerLag `json:"consumers"`
}

// laneView is how far behind a lane of our outbox is.
type laneView struct {
	Lane    contract.Lane `json:"lane"`
	Events  int64         `json:"events"`  // that wait, at most
	Seconds float64       `json:"seconds"` // that the oldest of them has waited
}

func (a *API) showOverview(w http.ResponseWriter, r *http.Request) error {
	if err := readQuery(r, nil); err != nil {
		return err
	}
	o, err := a.Store.Overview(r.Context())
	if err != nil {
		return err
	}
	age := func(since time.Time) float64 { return max(0, o.Now.Sub(since).Seconds()) }
	v := overviewView{
		At: o.Now.UTC(), Counts: o.Counts, Estimated: append([]saga.State{}, o.Estimated...), Breaker: o.Provider,
		Stranded: o.Drift.Stranded, Orphans: o.Drift.Orphans, ReconciledAt: o.Drift.FinishedAt, Minutes: o.Minutes,
		Consumers: a.Metrics.Consumers.Consumers(),
	}
	if o.OldestPending != nil {
		seconds := age(*o.OldestPending)
		v.OldestPending = &seconds
	}
	for _, lane := range contract.Lanes() {
		status := o.Lanes[lane]
		view := laneView{Lane: lane, Events: status.Lag}
		if !status.OldestPending.IsZero() {
			view.Seconds = age(status.OldestPending)
		}
		v.Outbox = append(v.Outbox, view)
		v.DeadEvents += status.Dead
	}
	return service.WriteJSON(w, http.StatusOK, v)
}

// listFailures answers with the kinds of failures, the largest first.
func (a *API) listFailures(w http.ResponseWriter, r *http.Request) error {
	n := defaultLimit
	if err := readQuery(r, filters{"limit": limit(&n)}); err != nil {
		return err
	}
	found, err := a.Store.Failures(r.Context(), n)
	if err != nil {
		return err
	}
	body := struct {
		Items    []store.Failures `json:"items"`
		Groups   int              `json:"groups"`   // in all
		Failures int              `json:"failures"` // in all groups
	}{Items: found}
	if len(found) == 0 {
		body.Items = []store.Failures{}
	} else {
		body.Groups, body.Failures = found[0].Groups, found[0].Total
	}
	return service.WriteJSON(w, http.StatusOK, body)
}
