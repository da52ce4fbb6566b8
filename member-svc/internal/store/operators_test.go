package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// fail adds a signup whose storage is rejected, with an error of the given kind.
func (f *fixture) fail(t *testing.T, name, fingerprint string) store.Record {
	t.Helper()
	r := f.signUp(t, name)
	return f.apply(t, r.ID, refusal(1, fingerprint)).Record
}

func refusal(generation int64, fingerprint string) saga.Event {
	e := reply(saga.Rejected, generation)
	e.Error = contract.StorageError{Class: "rejected", Message: "refused: " + fingerprint, Fingerprint: fingerprint}
	return e
}

func TestFailuresInGroups(t *testing.T) {
	f := open(t)
	if found, err := f.Failures(t.Context(), 10); err != nil || len(found.Items) != 0 {
		t.Errorf("of nobody: %v %v", found, err)
	}
	var last store.Record
	for i := range 3 {
		last = f.fail(t, fmt.Sprint("full", i), "full")
	}
	first := f.fail(t, "odd", "odd")
	healed := f.fail(t, "healed", "full")
	f.apply(t, healed.ID, reply(saga.Provisioned, 1))
	ann := saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "room made"}
	f.apply(t, first.ID, ann)
	open, err := f.Failures(t.Context(), 10)
	if err != nil || len(open.Items) != 1 {
		t.Errorf("while its retry is open, a saga is no failure: %+v %v", open, err)
	}
	again := f.apply(t, first.ID, refusal(2, "odd")).Record

	found, err := f.Failures(t.Context(), 10)
	if err != nil || len(found.Items) != 2 {
		t.Fatalf("%+v %v", found, err)
	}
	full, odd := found.Items[0], found.Items[1]
	if full.Fingerprint != "full" || full.Count != 3 || full.RetriedAgain != 0 || found.Groups != 2 ||
		found.Failures != 4 ||
		full.Sample != (wire.FailureSample{SagaID: last.ID, Class: "rejected", Message: "refused: full"}) ||
		full.FirstSeen.After(full.LastSeen) || !full.LastSeen.Equal(last.UpdatedAt) {
		t.Errorf("the common kind: %+v", full)
	}
	if odd.Fingerprint != "odd" || odd.Count != 1 || odd.RetriedAgain != 1 || !odd.FirstSeen.Equal(again.UpdatedAt) {
		t.Errorf("the kind that failed again: %+v", odd)
	}
	if found, err = f.Failures(t.Context(), 1); err != nil || len(found.Items) != 1 ||
		found.Items[0].Fingerprint != "full" || found.Groups != 2 {
		t.Errorf("the largest kind: %+v %v", found, err)
	}
	// A withdrawal is a new goal, which was never retried.
	f.apply(t, first.ID, saga.Event{Kind: saga.Withdraw, Actor: "ann", Reason: "asked by letter"})
	f.apply(t, first.ID, refusal(3, "odd"))
	if found, err = f.Failures(t.Context(), 10); err != nil || found.Items[1].Count != 1 ||
		found.Items[1].RetriedAgain != 0 {
		t.Errorf("a withdrawal that failed: %+v %v", found, err)
	}
}

func TestOverviewCounts(t *testing.T) {
	f := open(t)
	fresh, err := f.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fresh.OldestPending != nil || fresh.Provider.State != "closed" || fresh.Provider.ReportedAt != nil ||
		len(fresh.Minutes) != 60 || len(fresh.Counts) != len(saga.States) {
		t.Errorf("of nobody: %+v", fresh)
	}
	oldest := f.signUp(t, "waits")
	f.signUp(t, "waits-too")
	f.apply(t, f.signUp(t, "ready").ID, reply(saga.Provisioned, 1))
	f.fail(t, "failed", "full")
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET created_at = created_at - interval '2 hours' WHERE id = $1",
		oldest.ID)
	o, err := f.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for state, want := range map[saga.State]int{saga.Provisioning: 2, saga.Ready: 1, saga.NeedsAttention: 1,
		saga.Withdrawing: 0, saga.WithdrawNeedsAttention: 0, saga.Withdrawn: 0} {
		if o.Counts[state] != want {
			t.Errorf("%d are %s, want %d", o.Counts[state], state, want)
		}
	}
	if age := o.Now.Sub(*o.OldestPending); age < 2*time.Hour || age > 3*time.Hour {
		t.Errorf("the oldest has waited %s", age)
	}
	if age, err := f.OldestPending(t.Context()); err != nil || age < 2*time.Hour || age > 3*time.Hour {
		t.Errorf("the oldest has waited %s, says the metric: %v", age, err)
	}
	var signups, failures int
	for i, m := range o.Minutes {
		signups, failures = signups+m.Signups, failures+m.Failures
		if i > 0 && m.At.Sub(o.Minutes[i-1].At) != time.Minute {
			t.Errorf("minute %s follows %s", m.At, o.Minutes[i-1].At)
		}
	}
	if signups != 3 || failures != 1 || len(o.Estimated) != 0 {
		t.Errorf("%d signups and %d failures within the hour, estimated: %v", signups, failures, o.Estimated)
	}
	if lane := o.Lanes[contract.Essential]; lane.Lag != 4 || lane.OldestPending.IsZero() {
		t.Errorf("essential lane: %+v", lane)
	}
}

// Of the reports about the provider the newest one counts, in whatever order they arrive.
func TestNewestReportHolds(t *testing.T) {
	f := open(t)
	at := time.Now().UTC().Truncate(time.Second)
	for i, said := range []struct {
		state   string
		version int64
		at      time.Time
		want    string
	}{
		{"open", 5, at, "open"},
		{"closed", 4, at.Add(-time.Second), "open"},
		{"open", 5, at, "open"},
		{"closed", 6, at.Add(-time.Hour), "closed"}, // Storage's clock was set back
		{"open", 2, at.Add(time.Minute), "open"},    // Storage's database was restored
	} {
		if err := f.NoteProvider(t.Context(),
			contract.ProviderChange{State: said.state, Version: said.version, ChangedAt: said.at}); err != nil {
			t.Fatal(err)
		}
		if o, err := f.Overview(t.Context()); err != nil || o.Provider.State != said.want ||
			o.Provider.ReportedAt == nil {
			t.Errorf("after %d: %+v %v", i, o.Provider, err)
		}
	}
	why := contract.StorageError{Class: "outage", Message: "no identity", Fingerprint: "outage:no-identity"}
	for i, said := range []contract.ProviderChange{
		{State: "open", Version: 8, Error: &why}, {State: "open", Version: 9},
		{State: "open", Version: 10, Error: &why},
		{State: "closed", Version: 11, Error: &why}, // closed: no outage
	} {
		said.ChangedAt = at.Add(2 * time.Minute)
		if err := f.NoteProvider(t.Context(), said); err != nil {
			t.Fatal(err)
		}
		p, err := f.Provider(t.Context())
		want := said.State == "open" && said.Error != nil
		if err != nil || (p.Error != nil) != want || want && *p.Error != why {
			t.Errorf("reason %d: %+v %v", i, p.Error, err)
		}
	}
}

func TestDeadEventsRise(t *testing.T) {
	f := open(t)
	for i := range 3 {
		f.signUp(t, fmt.Sprint("mina", i))
	}
	for _, lane := range contract.Lanes() {
		storetest.Exec(t, f.pool,
			fmt.Sprintf(
				"INSERT INTO outbox_dead_%[1]s (id, event_id, type, error) SELECT id, event_id, type, 'too large' "+
					"FROM outbox_event_%[1]s", lane))
	}
	var all []string
	for after := (store.DeadID{}); len(all) < 10; {
		page, next, err := f.Dead(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			all = append(all, e.ID)
		}
		if next == nil {
			break
		}
		after = *next
	}
	if want := []string{"essential-3", "essential-2", "essential-1", "nonessential-3", "nonessential-2",
		"nonessential-1"}; !slices.Equal(all, want) {
		t.Errorf("listed %v", all)
	}
	o, err := f.Overview(t.Context())
	if err != nil || o.Lanes[contract.Essential].Dead != 3 {
		t.Errorf("%+v %v", o.Lanes, err)
	}
	id, err := store.ParseDeadID("essential-2")
	if err != nil {
		t.Fatal(err)
	}
	wakes := f.wakes.Load()
	e, err := f.Requeue(t.Context(), id, "ann", "limit raised")
	if err != nil || e.ID != "essential-2" || e.Type != "storage.provision" || e.Error != "too large" ||
		f.wakes.Load() != wakes+1 {
		t.Errorf("%+v %v", e, err)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM outbox_event_essential WHERE event_id = $1 AND id > 3",
		e.EventID); n != 1 {
		t.Errorf("%d new rows of the event", n)
	}
	if _, err := f.Requeue(t.Context(), id, "ann", "again"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
	if _, err := store.ParseDeadID("essential_dead-1; --"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a strange id: %v", err)
	}
	rows, _, err := f.Audit(t.Context(), store.AuditFilter{Limit: 10})
	if err != nil || len(rows) != 1 || rows[0].Actor != "ann" || rows[0].Action != "requeue" ||
		rows[0].Reason != "limit raised" || rows[0].Subject != "event "+e.EventID || rows[0].SagaID != nil {
		t.Errorf("audit: %+v %v", rows, err)
	}
	// Without its audit row, an action does nothing.
	storetest.Exec(t, f.pool, "ALTER TABLE admin_audit ADD CONSTRAINT broken CHECK (false) NOT VALID")
	if _, err := f.Requeue(t.Context(), store.DeadID{Lane: outboxLane, Row: 1}, "ann", "why"); err == nil ||
		storetest.Count(t, f.pool, "SELECT count(*) FROM outbox_dead_essential") != 2 {
		t.Errorf("requeued without an audit: %v", err)
	}
}

const outboxLane = string(contract.Essential)

func TestAuditInPages(t *testing.T) {
	f := open(t)
	one, two := f.fail(t, "one", "full"), f.fail(t, "two", "full")
	f.apply(t, one.ID, saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "first"})
	f.apply(t, two.ID, saga.Event{Kind: saga.Retried, Actor: "bob", Reason: "second"})
	f.apply(t, one.ID, saga.Event{Kind: saga.Withdraw, Actor: "ann", Reason: "third"})
	for name, tc := range map[string]struct {
		filter store.AuditFilter
		want   []string
	}{
		"all":          {store.AuditFilter{}, []string{"third", "second", "first"}},
		"of somebody":  {store.AuditFilter{Actor: "ann"}, []string{"third", "first"}},
		"of an action": {store.AuditFilter{Action: "retried"}, []string{"second", "first"}},
		"of a saga":    {store.AuditFilter{SagaID: two.ID}, []string{"second"}},
		"of all":       {store.AuditFilter{Actor: "ann", Action: "retried", SagaID: one.ID}, []string{"first"}},
		"of no saga":   {store.AuditFilter{SagaID: "x"}, nil},
	} {
		var got []string
		tc.filter.Limit = 1
		for more := true; more && len(got) <= len(tc.want); more = tc.filter.Before != 0 {
			page, next, err := f.Audit(t.Context(), tc.filter)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range page {
				got = append(got, row.Reason)
			}
			tc.filter.Before = next
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	page, _, err := f.Audit(t.Context(), store.AuditFilter{Limit: 1, SagaID: two.ID})
	if err != nil || *page[0].SagaID != two.ID || string(page[0].Before) == string(page[0].After) {
		t.Errorf("%+v %v", page, err)
	}
}
