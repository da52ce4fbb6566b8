package store_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// changes lists what was told of the provider, in order.
func (f *fixture) changes() []contract.ProviderChange {
	f.t.Helper()
	rows, _ := f.pool.Query(f.t.Context(), "SELECT payload FROM outbox_event_nonessential WHERE type = 'storage.provider-changed' ORDER BY id")
	told, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c contract.ProviderChange, err error) {
		var payload []byte
		if err = row.Scan(&payload); err == nil {
			err = json.Unmarshal(payload, &c)
		}
		return c, err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return told
}

// An outage is told twice, when it begins and when it ends, however many probes it
// takes; and together with the change of the gate, or not at all.
func TestOutageIsTold(t *testing.T) {
	f := open(t)
	g, err := f.Gate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at, token := g.Now, newToken()
	become := func(state provision.GateState) provision.Gate {
		next := g
		next.Version, next.State, next.OpenedAt, next.ProbeToken = g.Version+1, state, &at, nil
		switch state {
		case provision.GateHalfOpen:
			next.ProbeToken = &token
		case provision.GateClosed:
			next.OpenedAt, next.ClosedAt = nil, at
		}
		return next
	}
	first := g
	for _, state := range []provision.GateState{provision.GateOpen, provision.GateHalfOpen, provision.GateOpen, provision.GateHalfOpen, provision.GateClosed} {
		next := become(state)
		if written, err := f.SetGate(t.Context(), g, next); err != nil || !written {
			t.Fatalf("%s: %v %v", state, written, err)
		}
		g = next
	}
	if written, err := f.SetGate(t.Context(), first, become(provision.GateOpen)); err != nil || written {
		t.Errorf("of a gate that has moved on: %v %v", written, err)
	}
	want := []contract.ProviderChange{{State: "open", Version: first.Version + 1, ChangedAt: at.UTC()}, {State: "closed", Version: first.Version + 5, ChangedAt: at.UTC()}}
	if told := f.changes(); !slices.Equal(told, want) {
		t.Errorf("told %+v, want %+v", told, want)
	}
	if _, err := f.pool.Exec(t.Context(), "ALTER TABLE outbox_event_nonessential ADD CONSTRAINT broken CHECK (false) NOT VALID"); err != nil {
		t.Fatal(err)
	}
	if written, err := f.SetGate(t.Context(), g, become(provision.GateOpen)); err == nil || written {
		t.Errorf("without its event the gate was set: %v %v", written, err)
	}
	if now, err := f.Gate(t.Context()); err != nil || now.State != provision.GateClosed {
		t.Errorf("gate %+v %v", now, err)
	}
}
