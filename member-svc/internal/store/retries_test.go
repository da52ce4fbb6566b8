package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// failMany adds n signups whose storage was rejected.
func (f *fixture) failMany(t *testing.T, n int) {
	t.Helper()
	const id = "('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"
	storetest.Exec(t, f.pool, `INSERT INTO member (id, username, username_key, plan, password_hash, created_at)
SELECT `+id+`, 'u' || i, 'u' || i, 'free', 'x', now() FROM generate_series(1, $1::int) i`, n)
	storetest.Exec(t, f.pool,
		`INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at,
		    error_class, error_message, error_fingerprint, created_at, updated_at)
SELECT `+id+`, `+id+`, 'sgn_' || md5('g' || i), 'needs_attention', 1, 2, now(), now(), 'rejected', 'no room', 'full',
    now(), now() FROM generate_series(1, $1::int) i`, n)
}

// begin starts a retry of everything that the filter selects.
func (f *fixture) beginRetry(t *testing.T, rate, stopAfter int, filter store.Filter) wire.GroupRetry {
	t.Helper()
	r, err := f.BeginRetry(t.Context(), "ann",
		wire.NewGroupRetry{Reason: "room made", Filter: map[string]string{}, Rate: rate, StopAfter: stopAfter}, filter)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// step lets a second pass and takes a step.
func (f *fixture) step(t *testing.T, id string) wire.GroupRetry {
	t.Helper()
	f.pass(t)
	if _, err := f.StepRetry(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f.retry(t, id)
}

func (f *fixture) pass(t *testing.T) {
	t.Helper()
	storetest.Exec(t, f.pool, "UPDATE group_retry SET due_at = now() WHERE due_at IS NOT NULL")
}

func (f *fixture) retry(t *testing.T, id string) wire.GroupRetry {
	t.Helper()
	r, err := f.Retry(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// answerAll plays the Storage service: it answers every open command.
func (f *fixture) answerAll(t *testing.T, kind saga.Kind) {
	t.Helper()
	open, _, err := f.List(t.Context(), store.Filter{State: saga.Provisioning, Limit: 2000})
	if err != nil {
		t.Fatal(err)
	}
	changes := make([]store.Change, len(open))
	for i, r := range open {
		changes[i] = store.Change{SagaID: r.ID, Event: reply(kind, r.Generation)}
	}
	if _, err := f.Apply(t.Context(), changes...); err != nil {
		t.Fatal(err)
	}
}

// expectRetry compares the counts: matched, released, succeeded, failed, skipped, unsettled, remaining.
func expectRetry(t *testing.T, r wire.GroupRetry, state, because string, counts ...int) {
	t.Helper()
	got := []int{r.Matched, r.Released, r.Succeeded, r.Failed, r.Skipped, r.Unsettled, r.Remaining}
	if r.State != state || r.StoppedBecause != because || fmt.Sprint(got) != fmt.Sprint(counts) {
		t.Errorf("%s %q %v, want %s %q %v", r.State, r.StoppedBecause, got, state, because, counts)
	}
}

func (f *fixture) items(t *testing.T) int {
	t.Helper()
	return storetest.Count(t, f.pool, "SELECT count(*) FROM group_retry_item")
}

// A retry of a thousand sagas stops itself while they keep failing, and finishes once the cause is removed.
// Each time it retries every saga once, whatever crashes or races happen.
func TestGroupRetryOfAThousand(t *testing.T) {
	f := open(t)
	f.failMany(t, 1000)
	first := f.beginRetry(t, 200, 10, store.Filter{Error: "full"})
	expectRetry(t, first, "running", "", 1000, 0, 0, 0, 0, 0, 1000)
	for range 4 { // 1, 2, 4, 8
		f.step(t, first.ID)
		f.answerAll(t, saga.Rejected)
	}
	expectRetry(t, f.step(t, first.ID), "stopped", store.StoppedByFailures, 1000, 15, 0, 15, 0, 0, 985)
	if n := f.items(t); n != 0 {
		t.Errorf("%d items are left of a retry that has ended", n)
	}
	f.pass(t)
	if found, err := f.StepRetry(t.Context()); err != nil || found {
		t.Errorf("a step of nothing: %v %v", found, err)
	}

	second := f.beginRetry(t, 200, 10, store.Filter{})
	for second.State == "running" && second.Remaining > 0 && !t.Failed() {
		f.dies(t, second)
		f.together(t)
		f.answerAll(t, saga.Provisioned)
		second = f.retry(t, second.ID)
	}
	expectRetry(t, f.step(t, second.ID), "finished", "", 1000, 1000, 1000, 0, 0, 0, 0)
	for what, sql := range map[string]string{
		"ready": "SELECT count(*) FROM signup_saga WHERE state = 'ready' AND retried",
		"audited once": "SELECT count(*) FROM (SELECT saga_id FROM admin_audit WHERE subject = $1 AND action " +
			"= 'retried' GROUP BY saga_id HAVING count(*) = 1) a",
		"asked for once": "SELECT count(*) FROM (SELECT key FROM outbox_event_essential WHERE $1 <> '' AND " +
			"created_at > (SELECT at FROM admin_audit WHERE subject = $1 AND action = 'retry_group') GROUP BY key " +
			"HAVING count(*) = 1) e",
		"in their timelines": "SELECT count(*) - 15 FROM saga_event WHERE kind = 'retried' AND actor = 'ann' AND " +
			"detail = 'room made' AND $1 <> ''",
	} {
		args := []any{"retry " + second.ID}
		if what == "ready" {
			args = nil
		}
		if n := storetest.Count(t, f.pool, sql, args...); n != 1000 {
			t.Errorf("%d are %s, want 1000", n, what)
		}
	}
}

// dies takes a step that fails at each of its writes in turn, and checks that it leaves nothing behind.
func (f *fixture) dies(t *testing.T, before wire.GroupRetry) {
	t.Helper()
	for _, table := range []string{"signup_saga", "saga_event", "admin_audit", "outbox_event_essential",
		"group_retry_item", "group_retry"} {
		f.pass(t)
		storetest.Exec(t, f.pool,
			`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
			    AS 'BEGIN RAISE EXCEPTION ''injected''; END'`)
		storetest.Exec(t, f.pool, fmt.Sprintf(
			"CREATE TRIGGER broken BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION refuse()", table))
		if _, err := f.StepRetry(t.Context()); err == nil {
			t.Fatalf("%s is broken, but the step was taken", table)
		}
		storetest.Exec(t, f.pool, "DROP TRIGGER broken ON "+table)
		if now := f.retry(t, before.ID); now.Released != before.Released || now.Succeeded != before.Succeeded ||
			now.Remaining != before.Remaining {
			t.Fatalf("%s is broken: %+v, was %+v", table, now, before)
		}
	}
}

// together has four replicas take one step.
func (f *fixture) together(t *testing.T) {
	t.Helper()
	f.pass(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := f.StepRetry(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A saga of the frozen set is never retried twice, whatever else happens to it. A saga that fails later is not
// in the set.
func TestFrozenSet(t *testing.T) {
	f := open(t)
	healed, left, retried, plain := f.fail(t, "healed", "full"), f.fail(t, "left", "full"),
		f.fail(t, "retried", "full"), f.fail(t, "plain", "full")
	r := f.beginRetry(t, 200, 10, store.Filter{Error: "full"})
	late := f.fail(t, "late", "full")
	ann := saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "by hand"}
	f.apply(t, healed.ID, reply(saga.Provisioned, 1))
	f.apply(t, left.ID, saga.Event{Kind: saga.Withdraw})
	f.apply(t, retried.ID, ann)
	f.apply(t, retried.ID, refusal(2, "full"))
	for range 3 {
		r = f.step(t, r.ID)
	}
	expectRetry(t, r, "running", "", 4, 1, 0, 0, 3, 1, 0)
	for name, want := range map[*store.Record]int64{&healed: 1, &left: 2, &retried: 2, &plain: 2, &late: 1} {
		if now, _, err := f.Get(t.Context(), name.ID); err != nil || now.Generation != want {
			t.Errorf("%s has generation %d, want %d: %v", *name.Username, now.Generation, want, err)
		}
	}
	// A withdrawal after the release counts as skipped, not as the release's outcome.
	f.apply(t, plain.ID, saga.Event{Kind: saga.Withdraw})
	expectRetry(t, f.step(t, r.ID), "finished", "", 4, 1, 0, 0, 4, 0, 0)
}

// A withdrawal that failed is retried like a signup.
func TestGroupRetryOfWithdrawals(t *testing.T) {
	f := open(t)
	r := f.fail(t, "leaves", "full")
	f.apply(t, r.ID, saga.Event{Kind: saga.Withdraw})
	f.apply(t, r.ID, refusal(2, "locked"))
	retry := f.beginRetry(t, 1, 1, store.Filter{State: saga.WithdrawNeedsAttention})
	expectRetry(t, f.step(t, retry.ID), "running", "", 1, 1, 0, 0, 0, 1, 0)
	f.apply(t, r.ID, reply(saga.Deprovisioned, 3))
	expectRetry(t, f.step(t, retry.ID), "finished", "", 1, 1, 1, 0, 0, 0, 0)
}

// Without replies, the retry stops itself after ten seconds' worth of releases. It still counts the replies
// that arrive later.
func TestGroupRetryWithoutAnswers(t *testing.T) {
	f := open(t)
	f.failMany(t, 15)
	r := f.beginRetry(t, 1, 1, store.Filter{})
	for range 11 {
		f.step(t, r.ID)
	}
	expectRetry(t, f.retry(t, r.ID), "stopped", store.StoppedByUnsettled, 15, 10, 0, 0, 0, 10, 5)
	f.answerAll(t, saga.Provisioned)
	expectRetry(t, f.step(t, r.ID), "stopped", store.StoppedByUnsettled, 15, 10, 10, 0, 0, 0, 5)
	if n := f.items(t); n != 0 {
		t.Errorf("%d items are left", n)
	}
}

func TestGroupRetryIsCancelled(t *testing.T) {
	f := open(t)
	f.failMany(t, 15)
	r := f.beginRetry(t, 200, 10, store.Filter{})
	f.step(t, r.ID)
	for range 2 {
		cancelled, err := f.CancelRetry(t.Context(), r.ID, "bob", "wrong group")
		if err != nil || cancelled.FinishedAt == nil {
			t.Errorf("%+v %v", cancelled, err)
		}
		expectRetry(t, cancelled, "cancelled", "", 15, 1, 0, 0, 0, 1, 14)
	}
	f.answerAll(t, saga.Provisioned)
	expectRetry(t, f.step(t, r.ID), "cancelled", "", 15, 1, 1, 0, 0, 0, 14)
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM admin_audit WHERE action = 'cancel_retry' AND actor = 'bob' AND subject = $1", "retry "+
			r.ID); n != 1 || f.items(t) != 0 {
		t.Errorf("%d audit rows, %d items", n, f.items(t))
	}
	done := f.beginRetry(t, 200, 10, store.Filter{Error: "nobody's"})
	expectRetry(t, f.step(t, done.ID), "finished", "", 0, 0, 0, 0, 0, 0, 0)
	if _, err := f.CancelRetry(t.Context(), done.ID, "bob", "late"); !errors.Is(err, store.ErrNotRunning) {
		t.Errorf("of a finished one: %v", err)
	}
	if _, err := f.CancelRetry(t.Context(), "x", "bob", "strange"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of none: %v", err)
	}
	page, next, err := f.Retries(t.Context(), "ffffffff-ffff-ffff-ffff-ffffffffffff", 1)
	if err != nil || len(page) != 1 || page[0].ID != done.ID {
		t.Errorf("newest: %+v %v", page, err)
	}
	if page, next, err = f.Retries(t.Context(), next, 1); err != nil || len(page) != 1 || page[0].ID != r.ID ||
		next != "" {
		t.Errorf("older: %+v %q %v", page, next, err)
	}
}

// The size and the number of sets are bounded. A refused retry leaves nothing behind.
func TestGroupRetriesAreBounded(t *testing.T) {
	f := open(t)
	f.failMany(t, 3)
	if n, err := f.CountRetryable(t.Context(), store.Filter{Error: "full", Plan: "free"}); err != nil || n != 3 {
		t.Errorf("%d would be retried: %v", n, err)
	}
	f.SetMaxMatched(2)
	if _, err := f.CountRetryable(t.Context(), store.Filter{}); !errors.Is(err, store.ErrTooMany) {
		t.Errorf("dry run: %v", err)
	}
	ask := wire.NewGroupRetry{Reason: "x", Filter: map[string]string{}, Rate: 1, StopAfter: 1}
	if _, err := f.BeginRetry(t.Context(), "ann", ask, store.Filter{}); !errors.Is(err, store.ErrTooMany) ||
		f.items(t) != 0 {
		t.Errorf("%v, %d items", err, f.items(t))
	}
	f.SetMaxMatched(3)
	for range store.MaxRunning {
		f.beginRetry(t, 1, 1, store.Filter{})
	}
	if _, err := f.BeginRetry(t.Context(), "ann", ask, store.Filter{}); !errors.Is(err, store.ErrBusy) ||
		f.items(t) != 3*store.MaxRunning {
		t.Errorf("%v, %d items", err, f.items(t))
	}
	// All of them cover the same three sagas: each saga is retried once, by one of them.
	for range 4 {
		f.pass(t)
		for more := true; more; {
			var err error
			if more, err = f.StepRetry(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM saga_event WHERE kind = 'retried'"); n != 3 {
		t.Errorf("%d retries of three sagas", n)
	}
}

// A call that is repeated with its id, at the same time or long after, starts one retry and returns it, even if
// another retry could not start now.
func TestGroupRetryBeginsOnce(t *testing.T) {
	f := open(t)
	f.failMany(t, 3)
	ask := wire.NewGroupRetry{ID: "0199e5c0-5b1c-7a10-9c7e-6a0d9c1e2f44", Reason: "x", Filter: map[string]string{},
		Rate: 1, StopAfter: 1}
	begin := func() {
		if r, err := f.BeginRetry(t.Context(), "ann", ask, store.Filter{}); err != nil || r.ID != ask.ID ||
			r.Matched != 3 {
			t.Errorf("%+v %v", r, err)
		}
	}
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(begin)
	}
	calls.Wait()
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM admin_audit WHERE action = 'retry_group'"); n != 1 ||
		f.items(t) != 3 {
		t.Errorf("%d audit rows, %d items", n, f.items(t))
	}
	if _, err := f.CancelRetry(t.Context(), ask.ID, "ann", "x"); err != nil {
		t.Fatal(err)
	}
	f.step(t, ask.ID)
	begin()
	for range store.MaxRunning {
		f.beginRetry(t, 1, 1, store.Filter{})
	}
	begin()
	f.SetMaxMatched(2)
	begin()
	expectRetry(t, f.retry(t, ask.ID), "cancelled", "", 3, 0, 0, 0, 0, 0, 3)
}
