package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

func TestMain(m *testing.M) { testenv.Main(m) }

type fixture struct {
	*store.Store
	pool  *pgxpool.Pool
	wakes atomic.Int64
}

func open(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{pool: storetest.Open(t)}
	f.Store = store.New(f.pool, storetest.Steps, storetest.Secret, func() { f.wakes.Add(1) })
	return f
}

// begin prepares a signup without storing it.
func (f *fixture) begin(name string) (store.Member, store.Record, []contract.Type) {
	id := func() string { return uuid.Must(uuid.NewV7()).String() }
	m := store.Member{ID: id(), Username: name, UsernameKey: name, Email: name + "@example.org", Plan: "free",
		PasswordHash: "$argon2id$"}
	r, effects := storetest.Begin(id(), m)
	return m, r, effects
}

func keyOf(fingerprint string) *store.Key {
	return &store.Key{Value: "k", Fingerprint: []byte(fingerprint), Response: []byte("y")}
}

func (f *fixture) signUp(t *testing.T, name string) store.Record {
	t.Helper()
	m, r, effects := f.begin(name)
	if err := f.SignUp(t.Context(), m, r, effects, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

func (f *fixture) apply(t *testing.T, id string, e saga.Event) store.Result {
	t.Helper()
	results, err := f.Apply(t.Context(), store.Change{SagaID: id, Event: e})
	if err != nil {
		t.Fatal(err)
	}
	return results[0]
}

func reply(k saga.Kind, g int64) saga.Event {
	e := saga.Event{Kind: k, Step: "storage", Generation: g, MessageID: uuid.Must(uuid.NewV7()).String()}
	if k == saga.Rejected {
		e.Error = contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
	}
	return e
}

var everything = []string{"member", "signup_saga", "saga_event", "idempotency_key", "outbox_event_essential",
	"outbox_event_nonessential"}

func TestSignUpStoresEverythingOrNothing(t *testing.T) {
	f := open(t)
	for i, table := range everything { // fail each statement in turn
		storetest.Exec(t, f.pool,
			`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
			    AS 'BEGIN RAISE EXCEPTION ''injected''; END'`)
		storetest.Exec(t, f.pool,
			fmt.Sprintf("CREATE TRIGGER broken BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION refuse()", table))
		m, r, effects := f.begin(fmt.Sprintf("mina%d", i))
		if err := f.SignUp(t.Context(), m, r, effects, keyOf("x")); err == nil {
			t.Fatalf("%s is broken, but the signup succeeded", table)
		}
		for _, other := range everything {
			if n := storetest.Count(t, f.pool, "SELECT count(*) FROM "+other); n != 0 {
				t.Errorf("%s broken: %d rows in %s", table, n, other)
			}
		}
		storetest.Exec(t, f.pool, "DROP TRIGGER broken ON "+table)
	}
	if n := f.wakes.Load(); n != 0 {
		t.Errorf("%d wake-ups for transactions that were rolled back", n)
	}
	m, r, effects := f.begin("mina")
	if err := f.SignUp(t.Context(), m, r, effects, keyOf("x")); err != nil {
		t.Fatal(err)
	}
	for _, table := range everything {
		if n := storetest.Count(t, f.pool, "SELECT count(*) FROM "+table); n != 1 {
			t.Errorf("%d rows in %s, want 1", n, table)
		}
	}
	if f.wakes.Load() != 1 {
		t.Errorf("%d wake-ups, want 1", f.wakes.Load())
	}
}

func TestTakenNamesAndKeys(t *testing.T) {
	f := open(t)
	f.signUp(t, "mina")
	m, r, effects := f.begin("mina")
	if err := f.SignUp(t.Context(), m, r, effects, nil); !errors.Is(err, store.ErrTaken) {
		t.Errorf("same name: %v", err)
	}
	known, err := f.LookUp(t.Context(), "mina", "", "")
	if err != nil || !known.Taken || known.Exists || known.Response != nil ||
		time.Since(known.Now).Abs() > time.Minute {
		t.Errorf("known: %+v %v", known, err)
	}
	key := keyOf("x")
	for i, want := range []error{nil, store.ErrTaken} {
		m, r, effects := f.begin(fmt.Sprint("other", i))
		if err := f.SignUp(t.Context(), m, r, effects, key); !errors.Is(err, want) {
			t.Errorf("key used %d times: %v, want %v", i, err, want)
		}
	}
	storetest.Exec(t, f.pool, "UPDATE idempotency_key SET expires_at = now()")
	m, r, effects = f.begin("other3")
	if err := f.SignUp(t.Context(), m, r, effects, key); err != nil {
		t.Errorf("an expired key is a new one: %v", err)
	}
	storetest.Exec(t, f.pool, "UPDATE idempotency_key SET expires_at = now()")
	if n, err := f.ForgetExpiredKeys(t.Context(), 10); n != 1 || err != nil {
		t.Errorf("forgot %d, %v", n, err)
	}
}

func TestRepliesInAnyOrderAndNumber(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	rejected := reply(saga.Rejected, 1)
	if got := f.apply(t, r.ID, rejected); got.State != saga.NeedsAttention || got.Outcome != saga.Advanced {
		t.Fatalf("rejected: %+v", got)
	}
	if got := f.apply(t, r.ID, saga.Event{Kind: saga.Retried, Actor: "ann",
		Reason: "room made"}); got.Generation != 2 || got.State != saga.Provisioning {
		t.Fatalf("retried: %+v", got)
	}
	for range 3 { // the stale one repeatedly: one timeline row
		if got := f.apply(t, r.ID, rejected); got.Outcome != saga.Recorded || got.State != saga.Provisioning {
			t.Fatalf("stale rejection: %+v", got)
		}
	}
	done := reply(saga.Provisioned, 2)
	results, err := f.Apply(t.Context(), store.Change{SagaID: r.ID, Event: done},
		store.Change{SagaID: r.ID, Event: done},
		store.Change{SagaID: uuid.Must(uuid.NewV7()).String(), Event: done},
		store.Change{SagaID: "no uuid", Event: done})
	if err != nil {
		t.Fatal(err)
	}
	outcomes := map[saga.Outcome]int{}
	for _, result := range results {
		outcomes[result.Outcome]++
	}
	if outcomes[saga.Advanced] != 1 || outcomes[saga.Unchanged] != 1 || outcomes[""] != 2 {
		t.Errorf("outcomes %v", outcomes)
	}
	got, timeline, err := f.Get(t.Context(), r.ID)
	if err != nil || got.State != saga.Ready || got.Version != 4 {
		t.Fatalf("%+v %v", got, err)
	}
	var kinds []string
	for _, m := range timeline {
		kinds = append(kinds, m.Kind)
	}
	if want := "[signed_up rejected retried rejected_ignored provisioned]"; fmt.Sprint(kinds) != want {
		t.Errorf("timeline %v, want %s", kinds, want)
	}
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM admin_audit WHERE actor = 'ann' AND reason = 'room made' AND before->>'state' = "+
			"'needs_attention' AND after->>'generation' = '2'"); n != 1 {
		t.Errorf("%d audit rows, want 1", n)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM outbox_event_essential"); n != 2 {
		t.Errorf("%d commands, want 2", n)
	}
}

func TestTimelineIsBounded(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	var noise []store.Change
	for range 300 {
		noise = append(noise, store.Change{SagaID: r.ID, Event: reply(saga.AttemptFailed, 1)})
	}
	if _, err := f.Apply(t.Context(), noise...); err != nil {
		t.Fatal(err)
	}
	f.apply(t, r.ID, reply(saga.Provisioned, 1))
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM saga_event"); n != 201 {
		t.Errorf("%d rows, want 200 and the transition", n)
	}
}

// Replies to one saga may share a batch: it applies them all, each with a timeline row, and writes the saga
// once.
func TestOneSagaMovesTwiceInABatch(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	results, err := f.Apply(t.Context(), store.Change{SagaID: r.ID, Event: reply(saga.Rejected, 1)},
		store.Change{SagaID: r.ID, Event: saga.Event{Kind: saga.Retried, Actor: "op", Reason: "x"}},
		store.Change{SagaID: r.ID, Event: reply(saga.Provisioned, 2)})
	if err != nil || results[0].Version != 2 || results[1].Version != 3 || results[2].Version != 4 {
		t.Fatalf("%+v %v", results, err)
	}
	got, events, err := f.Get(t.Context(), r.ID)
	if err != nil || got.State != saga.Ready || got.Version != 4 || got.Generation != 2 || len(events) != 4 {
		t.Errorf("%+v %v, timeline %+v", got.Saga, err, events)
	}
}

// Many replicas move one saga at once: every version exists once.
func TestConcurrentChangesLoseNothing(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := f.Apply(context.Background(),
				store.Change{SagaID: r.ID, Event: reply(saga.Rejected, 1)}); err != nil {
				t.Errorf("reply: %v", err)
			}
			if _, err := f.Apply(context.Background(), store.Change{SagaID: r.ID,
				Event: saga.Event{Kind: saga.Retried, Actor: fmt.Sprint(i), Reason: "x"}}); err != nil {
				t.Errorf("retry: %v", err)
			}
		})
	}
	wg.Wait()
	got, _, err := f.Get(t.Context(), r.ID)
	if err != nil || got.State != saga.Provisioning || got.Generation != 2 || got.Version != 3 {
		t.Errorf("%+v %v", got.Saga, err)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM admin_audit"); n != 1 {
		t.Errorf("%d audit rows: a retry while one is open adds nothing", n)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM outbox_event_essential"); n != 2 {
		t.Errorf("%d commands, want 2", n)
	}
}

func TestIfVersion(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	f.apply(t, r.ID, reply(saga.Rejected, 1))
	stale, fresh := int64(1), int64(2)
	retried := saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "x"}
	change := store.Change{SagaID: r.ID, Event: retried, IfVersions: []int64{stale}}
	if _, err := f.Apply(t.Context(), change); !errors.Is(err, store.ErrStale) {
		t.Errorf("stale version: %v", err)
	}
	change.IfVersions = []int64{stale, fresh}
	if _, err := f.Apply(t.Context(), change); err != nil {
		t.Errorf("fresh version: %v", err)
	}
}

// publish marks every event so far as published.
func (f *fixture) publish(t *testing.T) {
	t.Helper()
	storetest.Exec(t, f.pool, `INSERT INTO outbox_checkpoint_essential (n, hi, gaps, stream_seq)
SELECT max(c.n) + 1, (SELECT max(id) FROM outbox_event_essential), '[]', 0 FROM outbox_checkpoint_essential c`)
}

func (f *fixture) overdue(t *testing.T, by string) {
	t.Helper()
	storetest.Exec(t, f.pool,
		`UPDATE signup_saga SET due_at = now() - interval '1 second', opened_at = opened_at - $1::interval`, by)
}

func (f *fixture) fillBudget(t *testing.T) {
	t.Helper()
	storetest.Exec(t, f.pool, "UPDATE redrive_budget SET tokens = 1000000, refilled_at = now() - interval '1 hour'")
}

func TestRedriveOnlyWhatWasPublished(t *testing.T) {
	f := open(t)
	old := f.signUp(t, "old")
	f.publish(t)
	f.signUp(t, "young") // its command is still in the outbox
	f.overdue(t, "1 minute")
	f.fillBudget(t)
	if n, err := f.Redrive(t.Context(), 200, 100); n != 1 || err != nil {
		t.Fatalf("moved %d, %v; want 1", n, err)
	}
	got, _, err := f.Get(t.Context(), old.ID)
	if err != nil || got.Redrives != 1 || got.Version != 1 || got.Generation != 1 ||
		!got.DueAt.After(time.Now().Add(-time.Second)) {
		t.Errorf("%+v %v", got.Saga, err)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(DISTINCT event_id) FROM outbox_event_essential WHERE key = $1",
		old.MemberID); n != 2 {
		t.Errorf("%d commands with ids of their own, want 2", n)
	}
	// The repeated command is still in the outbox, too. However often the timer fires, a broker outage does not
	// grow the outbox.
	f.overdue(t, "1 minute")
	f.fillBudget(t)
	if n, err := f.Redrive(t.Context(), 200, 100); n != 0 || err != nil {
		t.Errorf("moved %d, %v; want 0", n, err)
	}
	f.publish(t)
	if n, err := f.Redrive(t.Context(), 200, 100); n != 2 || err != nil {
		t.Errorf("moved %d, %v; want 2", n, err)
	}
}

// A newer version with another step is or was running: its sagas do not use up the budget of the others.
func TestRedriveLeavesUnknownSteps(t *testing.T) {
	f := open(t)
	f.signUp(t, "theirs")
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET step = 1")
	ours := f.signUp(t, "ours")
	f.publish(t)
	f.overdue(t, "25 hours")
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET due_at = due_at - interval '1 minute' WHERE step = 1")
	f.fillBudget(t)
	if n, err := f.Redrive(t.Context(), 200, 1); n != 1 || err != nil {
		t.Errorf("moved %d, %v; want 1", n, err)
	}
	if got, _, err := f.Get(t.Context(), ours.ID); err != nil || got.State != saga.NeedsAttention {
		t.Errorf("%+v %v", got.Saga, err)
	}
}

func TestRedriveKeepsToTheBudget(t *testing.T) {
	f := open(t)
	for i := range 12 {
		f.signUp(t, fmt.Sprint("mina", i))
	}
	f.publish(t)
	f.overdue(t, "1 minute")
	storetest.Exec(t, f.pool,
		"UPDATE redrive_budget SET tokens = 0, refilled_at = clock_timestamp() - interval '1 hour'")
	var moved atomic.Int64
	var wg sync.WaitGroup
	for range 4 { // four replicas share a burst of one second's worth
		wg.Go(func() {
			n, err := f.Redrive(context.Background(), 5, 100)
			if err != nil {
				t.Error(err)
			}
			moved.Add(int64(n))
		})
	}
	wg.Wait()
	if n := moved.Load(); n < 5 || n > 6 { // the clock goes on meanwhile
		t.Errorf("moved %d, want 5", n)
	}
}

func TestGivingUpNeedsNoBroker(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	f.overdue(t, "25 hours")
	f.fillBudget(t)
	if n, err := f.Redrive(t.Context(), 200, 100); n != 1 || err != nil {
		t.Fatalf("moved %d, %v", n, err)
	}
	got, timeline, err := f.Get(t.Context(), r.ID)
	if err != nil || got.State != saga.NeedsAttention || got.ErrorClass != saga.ClassGaveUp ||
		timeline[1].Kind != "gave_up" {
		t.Errorf("%+v %+v %v", got.Saga, timeline, err)
	}
	if got := f.apply(t, r.ID, reply(saga.Provisioned, 1)); got.State != saga.Ready {
		t.Errorf("a late success heals: %+v", got.Saga)
	}
}

func TestListPagesNewestFirst(t *testing.T) {
	f := open(t)
	var member string
	for i := range 7 {
		member = f.signUp(t, fmt.Sprint("mina", i)).MemberID
	}
	var names []string
	filter := store.Filter{Limit: 3}
	for {
		page, next, err := f.List(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			names = append(names, *r.Username)
		}
		if next.String() == "" {
			break
		}
		if filter.After, err = store.ParseCursor(next.String()); err != nil {
			t.Fatal(err)
		}
	}
	if want := "[mina6 mina5 mina4 mina3 mina2 mina1 mina0]"; fmt.Sprint(names) != want {
		t.Errorf("%v, want %s", names, want)
	}
	yes, no := true, false
	storetest.Exec(t, f.pool,
		"UPDATE signup_saga SET opened_at = opened_at - interval '1 minute' WHERE member_id = (SELECT id FROM "+
			"member WHERE username = 'mina3')")
	for name, tc := range map[string]struct {
		f    store.Filter
		want int
	}{
		"state": {store.Filter{State: saga.Provisioning}, 7}, "other state": {store.Filter{State: saga.Ready}, 0},
		"username": {store.Filter{UsernameKey: "mina4"}, 1}, "delayed": {store.Filter{Delayed: &yes}, 1},
		"in time":                   {store.Filter{Delayed: &no}, 6},
		"member":                    {store.Filter{MemberID: member}, 1},
		"member of another name":    {store.Filter{MemberID: member, UsernameKey: "mina4"}, 0},
		"member without that error": {store.Filter{MemberID: member, Error: "full"}, 0},
		"name without that error":   {store.Filter{UsernameKey: "mina4", Error: "full"}, 0},
		"after":                     {store.Filter{CreatedAfter: time.Now().Add(time.Hour)}, 0},
		"before":                    {store.Filter{CreatedBefore: time.Now().Add(time.Hour)}, 7},
	} {
		tc.f.Limit = 200
		if page, _, err := f.List(t.Context(), tc.f); err != nil || len(page) != tc.want {
			t.Errorf("%s: %d sagas, %v; want %d", name, len(page), err, tc.want)
		}
	}
	if _, err := store.ParseCursor("nonsense"); err == nil {
		t.Error("a foreign cursor was accepted")
	}
	if counts, err := f.CountUnsettled(t.Context()); err != nil || counts[saga.Provisioning] != 7 {
		t.Errorf("counts %v, %v", counts, err)
	}
}
