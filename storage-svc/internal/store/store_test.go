package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const saga = "01999e5c-0000-7000-8000-00000000000b"

func id(i int) string { return fmt.Sprintf("01999e5c-0000-7000-8000-%012x", i) }

func command(i int, generation int64, d provision.Desired) provision.Command {
	return provision.Command{MemberID: id(i), SagaID: saga, Generation: generation, Desired: d, QuotaBytes: 5}
}

type fixture struct {
	*store.Store
	t    testing.TB
	pool *pgxpool.Pool
}

func open(t testing.TB) *fixture {
	t.Helper()
	url := testenv.Database(t, "storage", func(ctx context.Context, url string) error {
		return service.Migrate(ctx, url, slog.New(slog.DiscardHandler), store.Migrations...)
	})
	pool, err := service.OpenPool(t.Context(), service.NewSecret(url), service.Common{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &fixture{Store: store.New(pool, nil), t: t, pool: pool}
}

func (f *fixture) apply(commands ...provision.Command) {
	f.t.Helper()
	if err := f.Apply(f.t.Context(), commands, nil); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) claim(n int, lease time.Duration) []provision.Storage {
	f.t.Helper()
	g, err := f.Breaker(f.t.Context())
	if err != nil {
		f.t.Error(err)
	}
	due, _, err := f.Claim(f.t.Context(), provision.Claim{N: n, Token: newToken(), Lease: lease, Was: g})
	if err != nil {
		f.t.Error(err)
	}
	return due
}

func newToken() string { return uuid.Must(uuid.NewV4()).String() }

func (f *fixture) finish(wantStale int, results ...provision.Result) {
	f.t.Helper()
	stale, err := f.Finish(f.t.Context(), results)
	if err != nil {
		f.t.Fatal(err)
	}
	if stale != wantStale {
		f.t.Errorf("%d stale results, want %d", stale, wantStale)
	}
}

func (f *fixture) get(i int) provision.Storage {
	f.t.Helper()
	s, err := f.Get(f.t.Context(), id(i))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// events lists the types and generations appended to a lane, in order.
func (f *fixture) events(lane contract.Lane) string {
	f.t.Helper()
	var all *string
	err := f.pool.QueryRow(f.t.Context(),
		`SELECT string_agg(type || ' ' || (headers->>'ce-generation'), ', ' ORDER BY id) FROM outbox_event_`+
			string(lane)).Scan(&all)
	if err != nil {
		f.t.Fatal(err)
	}
	if all == nil {
		return ""
	}
	return *all
}

func (f *fixture) expectEvents(lane contract.Lane, want string) {
	f.t.Helper()
	if got := f.events(lane); got != want {
		f.t.Errorf("%s events %q, want %q", lane, got, want)
	}
}

func (f *fixture) count(query string, args ...any) (n int) {
	f.t.Helper()
	if err := f.pool.QueryRow(f.t.Context(), query, args...).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

var policy = provision.Policy{Base: time.Hour, Cap: 2 * time.Hour, OutageCap: time.Hour}

func TestCommandsOfOneBatchAreDecidedInOrder(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present), command(2, 1, provision.Present), command(1, 1, provision.Present),
		command(3, 1, provision.Present), command(1, 2, provision.Absent), command(2, 1, provision.Present),
		command(1, 1, provision.Present))
	if s := f.get(1); s.Desired != provision.Absent || s.Generation != 2 || s.Status != provision.Pending ||
		s.Version != 2 || s.NextAttemptAt == nil {
		t.Errorf("row 1: %+v", s)
	}
	if s := f.get(2); s.Desired != provision.Present || s.Generation != 1 || s.Version != 1 || s.QuotaBytes != 5 {
		t.Errorf("row 2: %+v", s)
	}
	f.expectEvents(contract.Essential, "")
}

func TestSettledStorageIsAnsweredWithANewEvent(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present))
	f.finish(0, policy.After(f.claim(1, time.Minute)[0], nil))
	f.apply(command(1, 1, provision.Present))
	f.apply(command(1, 1, provision.Present))
	f.expectEvents(contract.Essential, "storage.provisioned 1, storage.provisioned 1, storage.provisioned 1")
	if n := f.count("SELECT count(DISTINCT event_id) FROM outbox_event_essential"); n != 3 {
		t.Errorf("%d different event ids", n)
	}
	f.apply(command(1, 2, provision.Absent))
	f.finish(0, policy.After(f.claim(1, time.Minute)[0], nil))
	f.apply(command(1, 1, provision.Present), command(1, 3, provision.Present))
	f.expectEvents(contract.Essential, "storage.provisioned 1, storage.provisioned 1, storage.provisioned 1, "+
		"storage.deprovisioned 2, storage.rejected 1, storage.rejected 3")
	if s := f.get(1); s.Status != provision.Removed || s.Generation != 2 {
		t.Errorf("came back: %+v", s)
	}
}

func TestStaleResultsAreRefused(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present), command(2, 1, provision.Present))
	// Two workers: the first is paused past its lease.
	slow := f.claim(2, time.Microsecond)
	var again []provision.Storage
	testenv.Eventually(t, 5*time.Second, "the lease to run out",
		func() bool { again = append(again, f.claim(2, time.Minute)...); return len(again) == 2 })
	f.finish(2, policy.After(slow[0], nil), policy.After(slow[1], nil))
	if s := f.get(1); s.Status != provision.Pending || s.LeaseToken == nil || *s.LeaseToken == *slow[0].LeaseToken {
		t.Errorf("a stale token wrote: %+v", s)
	}
	f.expectEvents(contract.Essential, "")
	// A newer command overtakes one of them; the lease stays until the result releases it.
	f.apply(command(1, 2, provision.Absent))
	if s := f.get(1); s.LeaseToken == nil {
		t.Error("the command cleared the lease")
	}
	if len(f.claim(2, time.Minute)) != 0 {
		t.Error("claimed in spite of a lease")
	}
	f.finish(1, policy.After(again[0], nil), policy.After(again[1], nil))
	f.expectEvents(contract.Essential, "storage.provisioned 1")
	due := f.claim(2, time.Minute)
	if len(due) != 1 || due[0].MemberID != id(1) || due[0].Desired != provision.Absent {
		t.Errorf("due %+v", due)
	}
}

func TestOutageBurnsNoAttempts(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present))
	before := f.get(1)
	f.finish(0, policy.After(f.claim(1, time.Minute)[0],
		&provision.Failure{Class: provision.ClassOutage, Err: errors.New("refused\x00")}))
	s := f.get(1)
	if s.Status != provision.Pending || s.Attempts != 0 || s.OutageAttempts != 1 || *s.LastErrorClass != "outage" ||
		s.LeaseToken != nil {
		t.Errorf("row %+v", s)
	}
	if !s.NextAttemptAt.After(*before.NextAttemptAt) || len(f.claim(1, time.Minute)) != 0 {
		t.Errorf("due again at once: %v", s.NextAttemptAt)
	}
	f.expectEvents(contract.NonEssential, "storage.attempt-failed 1")
	f.expectEvents(contract.Essential, "")
	if n := f.count(`SELECT count(*) FROM outbox_event_nonessential
		WHERE (convert_from(payload, 'utf8')::json->>'next_attempt_at')::timestamptz
		    = (SELECT next_attempt_at FROM storage)`); n != 1 {
		t.Error("the event lacks the time of the next attempt")
	}
	if f.count("SELECT count(*) FROM dead_letter") != 0 {
		t.Error("dead letters")
	}
}

// The database's clock decides when a storage is due: the worker's may be wrong.
func TestBackoffIsByTheDatabaseClock(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present))
	r := policy.After(f.claim(1, time.Minute)[0], errors.New("x"))
	r.Delay = 90 * time.Second
	f.finish(0, r)
	if n := f.count("SELECT extract(epoch FROM next_attempt_at - updated_at)::int FROM storage"); n != 90 {
		t.Errorf("due after %d s", n)
	}
	if len(f.claim(1, time.Minute)) != 0 {
		t.Error("claimed too early")
	}
	if _, err := f.pool.Exec(t.Context(), "UPDATE storage SET next_attempt_at = now()"); err != nil {
		t.Fatal(err)
	}
	if len(f.claim(1, time.Minute)) != 1 {
		t.Error("not claimed when due")
	}
}

func TestRejectionEndsUntilTheOperatorRetries(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present))
	f.finish(0, policy.After(f.claim(1, time.Minute)[0],
		&provision.Failure{Class: provision.ClassRejected, Err: errors.New("no")}))
	if s := f.get(1); s.Status != provision.Rejected || s.NextAttemptAt != nil || s.Attempts != 1 ||
		s.Error().Message != "no" {
		t.Errorf("row %+v", s)
	}
	if len(f.claim(1, time.Minute)) != 0 {
		t.Error("still due")
	}
	f.apply(command(1, 2, provision.Present))
	if s := f.get(1); s.Status != provision.Pending || s.Attempts != 0 || s.Error() != nil {
		t.Errorf("after the retry: %+v", s)
	}
	f.finish(0, policy.After(f.claim(1, time.Minute)[0], nil))
	f.expectEvents(contract.Essential, "storage.rejected 1, storage.provisioned 2")
}

func TestDeadLetterAndReplyInOneTransaction(t *testing.T) {
	f := open(t)
	h := &provision.Handler{Inbox: f, Wake: func() {}, Log: slog.New(slog.DiscardHandler)}
	poison := service.Message{Subject: "signup.essential.storage.provision", Body: []byte("{\x00\xff"),
		Headers: map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"\x00"}, "ce-source": {"/member-svc"},
			"ce-type": {"storage.provision"}, "ce-subject": {id(1)}, "ce-sagaid": {saga}, "ce-generation": {"4"},
		}}
	for range 2 {
		if err := h.Handle(t.Context(), []service.Message{poison}); err != nil {
			t.Fatal(err)
		}
	}
	f.expectEvents(contract.Essential, "storage.rejected 4, storage.rejected 4")
	if n := f.count("SELECT sum(seen)::int FROM dead_letter GROUP BY fingerprint"); n != 2 {
		t.Errorf("seen %d times", n)
	}
	// The insertion of the event fails: the dead letter is not stored either.
	if _, err := f.pool.Exec(t.Context(), "DROP TABLE outbox_event_essential"); err != nil {
		t.Fatal(err)
	}
	poison.Body = []byte("another")
	if err := h.Handle(t.Context(), []service.Message{poison}); err == nil || f.Defective(err) {
		t.Errorf("err = %v", err)
	}
	if n := f.count("SELECT count(*) FROM dead_letter"); n != 1 {
		t.Errorf("%d dead letters", n)
	}
}

// Old dead letters are deleted, and the oldest ones if there are too many.
func TestDeadLettersAreForgotten(t *testing.T) {
	f := open(t)
	dead := make([]provision.DeadLetter, 6)
	for i := range dead {
		dead[i] = provision.DeadLetter{Fingerprint: fmt.Sprint(i), Headers: []byte("{}"), Body: []byte("x")}
	}
	if err := f.Apply(t.Context(), nil, dead); err != nil {
		t.Fatal(err)
	}
	// Letter i is i days old; 5 was delivered again an hour ago.
	if _, err := f.pool.Exec(t.Context(),
		`UPDATE dead_letter SET first_seen = now() - make_interval(days => fingerprint::int),
last_seen = CASE fingerprint WHEN '5' THEN now() - interval '1 hour'
    ELSE now() - make_interval(days => fingerprint::int) END`); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		retention   time.Duration
		most, limit int
		want        int64
		left        string
	}{
		{100 * 24 * time.Hour, 6, 9, 0, "0 1 2 3 4 5"},
		{84 * time.Hour, 6, 9, 1, "0 1 2 3 5"},
		{84 * time.Hour, 2, 2, 2, "0 1 5"},
		{84 * time.Hour, 2, 2, 1, "0 1"},
		{84 * time.Hour, 2, 2, 0, "0 1"},
	} {
		n, err := f.ForgetDeadLetters(t.Context(), c.retention, c.most, c.limit)
		var left string
		if err := f.pool.QueryRow(t.Context(),
			"SELECT string_agg(fingerprint, ' ' ORDER BY fingerprint) FROM dead_letter").Scan(&left); err != nil {
			t.Fatal(err)
		}
		if err != nil || n != c.want || left != c.left {
			t.Errorf("%+v: forgot %d, left %s, %v", c, n, left, err)
		}
	}
}

func TestConcurrentBatchesAndResultsDoNotDeadlock(t *testing.T) {
	f := open(t)
	const members, rounds = 30, 10
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for round := range rounds {
				var batch []provision.Command
				for i := range members {
					// Each writer uses an order of its own.
					batch = append(batch, command((i*7+w*11)%members, int64(round+1), provision.Present))
				}
				if err := f.Apply(t.Context(), batch, nil); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range rounds * 2 {
				due := f.claim(members, time.Minute)
				var results []provision.Result
				for _, s := range due {
					results = append([]provision.Result{policy.After(s, nil)}, results...)
				}
				if _, err := f.Finish(t.Context(), results); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := f.count("SELECT count(*) FROM storage WHERE generation = $1", rounds); n != members {
		t.Errorf("%d members at the last generation", n)
	}
}
