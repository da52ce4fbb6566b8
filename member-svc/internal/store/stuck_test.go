package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// notices returns a replica's pass that writes notices.
func notices(pool *pgxpool.Pool, after time.Duration, wake func()) func(context.Context) error {
	st := store.New(pool, storetest.Steps, storetest.Secret, wake)
	return func(ctx context.Context) error { return st.NotifyStuck(ctx, after) }
}

// stuckSignup adds a member whose saga is in the given state, with a generation that was opened some time ago. It
// returns the saga's id.
func stuckSignup(t *testing.T, pool *pgxpool.Pool, state, errorClass string, age time.Duration) string {
	t.Helper()
	member, saga := uuid.Must(uuid.NewV7()).String(), uuid.Must(uuid.NewV7()).String()
	storetest.Exec(t, pool,
		"INSERT INTO member (id, username, username_key, plan, password_hash, created_at) VALUES ($1, $2, $2, "+
			"'free', 'x', now())", member, "m"+saga[24:])
	storetest.Exec(t, pool,
		`INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at,
		    due_at, error_class, created_at, updated_at)
VALUES ($1, $2, $6, $3, 1, 1, now() - make_interval(secs => $5), now(), now(), $4, now(),
    now())`, saga, member, state, errorClass, age.Seconds(), "sgn_"+member)
	return saga
}

func TestEachStuckSagaIsReportedOncePerGenerationAndReason(t *testing.T) {
	pool := storetest.Open(t)
	late := stuckSignup(t, pool, "provisioning", "", time.Hour)
	stuckSignup(t, pool, "provisioning", "", time.Second)
	stuckSignup(t, pool, "needs_attention", "rejected", 0)
	stuckSignup(t, pool, "withdrawing", "", time.Hour)
	stuckSignup(t, pool, "withdraw_needs_attention", "gave_up", time.Hour)
	stuckSignup(t, pool, "ready", "", time.Hour)
	stuckSignup(t, pool, "withdrawn", "", time.Hour)
	wakes := 0
	var wg sync.WaitGroup
	notify := notices(pool, 15*time.Minute, nil)
	for range 4 { // replicas
		wg.Go(func() {
			if err := notify(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	told := func(want string) {
		t.Helper()
		var got string
		if err := pool.QueryRow(t.Context(), `-- name: told
SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT convert_from(payload,
    'UTF8')::json->>'state' || ':' || (convert_from(payload,
        'UTF8')::json->>'reason') || ':' || (headers->>'ce-generation') AS x
FROM outbox_event_nonessential WHERE type = 'signup.stuck') e`).Scan(&got); err != nil || got != want {
			t.Errorf("told %q, %v; want %q", got, err, want)
		}
		if n := storetest.Count(t, pool, "SELECT count(*) FROM outbox_event_nonessential") - storetest.Count(t, pool,
			"SELECT count(*) FROM saga_event WHERE kind = 'stuck'"); n != 0 {
			t.Errorf("%d more events than rows in timelines", n)
		}
	}
	first := "needs_attention:rejected:1 provisioning:delayed:1 withdraw_needs_attention:gave_up:1 " +
		"withdrawing:delayed:1"
	told(first)
	storetest.Exec(t, pool, "UPDATE signup_saga SET generation = 2 WHERE id = $1", late)
	if err := notices(pool, 15*time.Minute, func() { wakes++ })(t.Context()); err != nil || wakes != 1 {
		t.Errorf("%v, %d wake-ups", err, wakes)
	}
	storetest.Exec(t, pool, "UPDATE signup_saga SET state = 'needs_attention', error_class = 'gave_up' WHERE id = $1",
		late)
	if err := notify(t.Context()); err != nil {
		t.Error(err)
	}
	told(
		"needs_attention:gave_up:2 needs_attention:rejected:1 provisioning:delayed:1 provisioning:delayed:2 " +
			"withdraw_needs_attention:gave_up:1 withdrawing:delayed:1")
}

// Another replica has written a notice but has not committed yet: we wait for it, and then write none.
func TestReplicasDoNotReportTwice(t *testing.T) {
	pool := storetest.Open(t)
	saga := stuckSignup(t, pool, "needs_attention", "rejected", 0)
	other, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), `-- name: otherReplica
INSERT INTO saga_event (saga_id, kind, state, version, generation, message_id)
    VALUES ($1, 'stuck', 'needs_attention', 1, 1, 'stuck:1:rejected')`, saga); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- notices(pool, time.Minute, nil)(t.Context()) }()
	testenv.Eventually(t, 10*time.Second, "our replica to wait for the other", func() bool {
		return storetest.Count(t, pool,
			"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+
				"wait_event_type = 'Lock'") == 1
	})
	if err := other.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || storetest.Count(t, pool, "SELECT count(*) FROM outbox_event_nonessential") != 0 {
		t.Errorf("reported again, or failed: %v", err)
	}
}

// A saga whose row does not fit into a message does not block the notices of others.
func TestDamagedSagaHoldsUpNoNotice(t *testing.T) {
	pool := storetest.Open(t)
	stuckSignup(t, pool, "needs_attention", "no\nclass", 0)
	stuckSignup(t, pool, "needs_attention", "rejected", 0)
	if err := notices(pool, time.Minute, nil)(t.Context()); err != nil {
		t.Fatal(err)
	}
	const sent = "SELECT count(*) FROM outbox_event_nonessential " +
		"WHERE convert_from(payload, 'UTF8')::json->>'reason' = 'rejected'"
	if n := storetest.Count(t, pool, sent); n != 1 {
		t.Errorf("%d notices of the sound saga, want 1", n)
	}
}

// A crash, or an outbox that cannot be written, leaves no timeline row that would suppress the notice later.
func TestNoticeIsOneTransaction(t *testing.T) {
	pool := storetest.Open(t)
	stuckSignup(t, pool, "needs_attention", "rejected", 0)
	storetest.Exec(t, pool,
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''injected''; END'`)
	storetest.Exec(t, pool,
		"CREATE TRIGGER broken BEFORE INSERT ON outbox_event_nonessential FOR EACH ROW EXECUTE FUNCTION refuse()")
	notify := notices(pool, time.Minute, nil)
	if err := notify(t.Context()); err == nil {
		t.Fatal("the outbox is broken, but nothing failed")
	}
	if n := storetest.Count(t, pool, "SELECT count(*) FROM saga_event"); n != 0 {
		t.Fatalf("%d rows in the timeline, want 0", n)
	}
	storetest.Exec(t, pool, "DROP TRIGGER broken ON outbox_event_nonessential")
	if err := notify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := storetest.Count(t, pool, "SELECT count(*) FROM outbox_event_nonessential"); n != 1 {
		t.Errorf("%d notices, want 1", n)
	}
}
