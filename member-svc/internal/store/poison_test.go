package store_test

import (
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// failed returns the id of a saga that failMany adds.
func failed(i int) string { return fmt.Sprintf("00000000-0000-7000-8000-%012x", i) }

// An older version stored the numbers of a forged reply, at the maximum of their type. The saga can still be
// retried, alone and in a group, and left; its commands stay within their bounds.
func TestPoisonedSagaContinues(t *testing.T) {
	f := open(t)
	f.failMany(t, 6)
	storetest.Exec(t, f.pool, `UPDATE signup_saga SET generation = $1, observed_generation = $1, version = $1,
redrives = $2, error_class = 'generation_ahead', error_fingerprint = 'generation_ahead' WHERE id <= $3`,
		int64(math.MaxInt64), math.MaxInt32, failed(3))
	apply := func(i int, e saga.Event) store.Result {
		t.Helper()
		results, err := f.Apply(t.Context(), store.Change{SagaID: failed(i), Event: e})
		if err != nil {
			t.Fatal(err)
		}
		return results[0]
	}
	if r := apply(1, saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "x"}); r.State != saga.Provisioning ||
		r.Generation != contract.MaxGeneration {
		t.Errorf("retried: %+v", r.Saga)
	}
	if r := apply(1, reply(saga.Provisioned, contract.MaxGeneration)); r.State != saga.Ready {
		t.Errorf("answered: %+v", r.Saga)
	}
	left := apply(2, saga.Event{Kind: saga.Withdraw})
	if left.State != saga.Withdrawing || left.Username != nil {
		t.Errorf("left: %+v", left.Saga)
	}
	if r := apply(2, reply(saga.Deprovisioned, left.Generation)); r.State != saga.Withdrawn {
		t.Errorf("removed: %+v", r.Saga)
	}
	r := f.beginRetry(t, 200, 10, store.Filter{})
	for range 3 {
		f.step(t, r.ID)
	}
	f.answerAll(t, saga.Provisioned)
	expectRetry(t, f.step(t, r.ID), "finished", "", 4, 4, 4, 0, 0, 0, 0)
	sent := storetest.Count(t, f.pool, `SELECT count(*) FROM outbox_event_essential
WHERE (convert_from(payload, 'UTF8')::jsonb->>'generation')::bigint > $1`, contract.MaxGeneration)
	if sent != 0 {
		t.Errorf("%d commands are out of bounds", sent)
	}
}

// A group retry skips and counts a saga that the database rejects; its neighbours continue.
func TestRefusedSagaIsSkipped(t *testing.T) {
	f := open(t)
	f.Log = slog.New(slog.DiscardHandler)
	f.failMany(t, 5)
	storetest.Exec(t, f.pool, "ALTER TABLE signup_saga ADD CHECK (id <> '"+failed(2)+
		"' OR state <> 'provisioning' AND redrives = 0)")
	r := f.beginRetry(t, 200, 10, store.Filter{})
	for range 4 {
		f.step(t, r.ID)
	}
	f.answerAll(t, saga.Provisioned)
	expectRetry(t, f.step(t, r.ID), "finished", "", 5, 4, 4, 0, 1, 0, 0)

	// The same for the timer: the rejected saga is postponed.
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET due_at = now() WHERE id = $1", failed(2))
	r2 := f.signUp(t, "mina")
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET due_at = now() WHERE id = $1", r2.ID)
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET commanded_at = '2026-01-01'")
	if _, err := f.Redrive(t.Context(), 1000, 100); err != nil {
		t.Fatal(err)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM signup_saga WHERE due_at <= now()"); n != 0 {
		t.Errorf("%d are still due", n)
	}
	if got, _, err := f.Get(t.Context(), r2.ID); err != nil || got.Redrives != 1 {
		t.Errorf("the neighbour was asked %d times again, %v", got.Redrives, err)
	}
}

// A group retry whose step fails, for a reason that is not in the data, is postponed, longer each time. Others
// take their steps meanwhile.
func TestFailingRetryHoldsUpNoOther(t *testing.T) {
	f := open(t)
	f.failMany(t, 2)
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET error_fingerprint = 'other' WHERE id = $1", failed(2))
	storetest.Exec(t, f.pool, `CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '58030'; END $$`)
	storetest.Exec(t, f.pool, "CREATE TRIGGER broken BEFORE UPDATE ON signup_saga FOR EACH ROW "+
		"WHEN (OLD.id = '"+failed(1)+"') EXECUTE FUNCTION broken()")
	bad := f.beginRetry(t, 1, 1, store.Filter{Error: "full"})
	good := f.beginRetry(t, 1, 1, store.Filter{Error: "other"})
	f.pass(t)
	if _, err := f.StepRetry(t.Context()); err == nil {
		t.Fatal("the step did not fail")
	}
	if found, err := f.StepRetry(t.Context()); err != nil || !found {
		t.Fatalf("the other one: %v %v", found, err)
	}
	expectRetry(t, f.retry(t, good.ID), "running", "", 1, 1, 0, 0, 0, 1, 0)
	wait := func() (secs, failures int) {
		err := f.pool.QueryRow(t.Context(), `SELECT round(extract(epoch FROM due_at - now()))::int, failures
FROM group_retry WHERE id = $1`, bad.ID).Scan(&secs, &failures)
		if err != nil {
			t.Fatal(err)
		}
		return secs, failures
	}
	if secs, failures := wait(); failures != 1 || secs < 1 || secs > 60 {
		t.Errorf("put off by %d s after %d failures", secs, failures)
	}
	storetest.Exec(t, f.pool, "DROP TRIGGER broken ON signup_saga")
	expectRetry(t, f.step(t, bad.ID), "running", "", 1, 1, 0, 0, 0, 1, 0)
	if _, failures := wait(); failures != 0 {
		t.Errorf("%d failures after a success", failures)
	}
}

// Group retries accept every filter that the list accepts.
func TestEveryFilterSelectsWhatIsRetried(t *testing.T) {
	f := open(t)
	f.failMany(t, 3)
	yes, no := true, false
	for name, c := range map[string]struct {
		filter store.Filter
		want   int
	}{
		"all": {store.Filter{}, 3}, "state": {store.Filter{State: saga.NeedsAttention}, 3},
		"another state": {store.Filter{State: saga.Ready}, 0},
		"error":         {store.Filter{Error: "full"}, 3}, "plan": {store.Filter{Plan: "free"}, 3},
		"another plan": {store.Filter{Plan: "pro"}, 0},
		"name":         {store.Filter{UsernameKey: "u2"}, 1}, "member": {store.Filter{MemberID: failed(2)}, 1},
		"delayed": {store.Filter{Delayed: &yes}, 0}, "not delayed": {store.Filter{Delayed: &no}, 3},
		"after": {store.Filter{CreatedAfter: time.Now().Add(time.Hour)}, 0},
		"before": {store.Filter{CreatedBefore: time.Now().Add(time.Hour), Delayed: &no, Error: "full", Plan: "free"},
			3},
		"page": {store.Filter{After: store.Cursor{At: time.Now().Add(time.Hour), ID: failed(1)}}, 3},
	} {
		n, err := f.CountRetryable(t.Context(), c.filter)
		if err != nil || n != c.want {
			t.Errorf("%s: %d, %v; want %d", name, n, err, c.want)
		}
	}
}

// A reply about another member's saga changes nothing.
func TestReplyIsForItsMembersSaga(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	change := store.Change{SagaID: r.ID, MemberID: failed(1), Event: reply(saga.Provisioned, 1)}
	results, err := f.Apply(t.Context(), change)
	if err != nil || results[0].Outcome != "" {
		t.Errorf("%+v %v", results, err)
	}
	change.MemberID = r.MemberID
	if _, err := f.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if got, _, err := f.Get(t.Context(), r.ID); err != nil || got.State != saga.Ready {
		t.Errorf("%s %v", got.State, err)
	}
}
