package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

var errAway = &provision.Failure{Class: provision.ClassOutage, Err: errors.New("connection refused")}

// Two replicas on one database meet an outage: one probe at a time, no attempt used up, and after the outage
// all replicas together keep to the rate.
func TestReplicasShareProbeAndRate(t *testing.T) {
	f := open(t)
	const storages, rate = 400, 200
	var commands []provision.Command
	for i := range storages {
		commands = append(commands, command(i, 1, provision.Present))
	}
	f.apply(commands...)
	var away atomic.Bool
	away.Store(true)
	var mu sync.Mutex
	var calls []time.Time
	p := &scripted{call: func(context.Context, provision.Storage) error {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, time.Now())
		if away.Load() {
			return errAway
		}
		return nil
	}}
	made := func() int { mu.Lock(); defer mu.Unlock(); return len(calls) }
	for range 2 {
		defer f.work(p, func(w *provision.Worker) {
			w.Queue, w.Concurrency = store.New(f.pool, nil), 16
			w.Policy = provision.Policy{Base: 10 * time.Millisecond, Cap: time.Second, OutageCap: 50 * time.Millisecond,
				Rate: rate}
		})()
	}
	testenv.Eventually(t, 10*time.Second, "the breaker to open and the calls to end", func() bool {
		return p.running.Load() == 0 && f.count("SELECT count(*) FROM provider_gate WHERE state <> 'closed'") == 1
	})
	first := made()
	p.most.Store(0)
	testenv.Eventually(t, 20*time.Second, "20 probes", func() bool { return made() >= first+20 })
	if most := p.most.Load(); first > 60 || most != 1 {
		t.Errorf("%d calls before it opened, then %d at once", first, most)
	}
	n := f.count("SELECT count(*) FROM storage WHERE attempts > 0") + f.count("SELECT count(*) FROM dead_letter")
	if n != 0 {
		t.Errorf("%d attempts or storages were lost to the outage", n)
	}
	away.Store(false)
	f.eventuallyReady(storages)
	if n := f.count("SELECT count(*) FROM storage WHERE attempts = 1"); n != storages {
		t.Errorf("%d storages took one attempt", n)
	}
	var closed time.Time
	if err := f.pool.QueryRow(t.Context(),
		"SELECT closed_at FROM provider_gate WHERE state = 'closed' AND opened_at IS NULL").Scan(&closed); err != nil {
		t.Fatal(err)
	}
	var recovery int
	for _, at := range calls {
		if at.After(closed) {
			recovery++
		}
	}
	took := calls[len(calls)-1].Sub(closed).Seconds()
	if recovery < storages/2 || float64(recovery) > 1.1*rate*took {
		t.Errorf("%d calls in %.1f s", recovery, took)
	}
}

// watched claims once, and sends the number of results that were refused.
type watched struct {
	provision.Queue
	claimed atomic.Bool
	stale   chan int
}

func (q *watched) Claim(ctx context.Context, c provision.Claim) ([]provision.Storage, provision.Breaker, error) {
	if q.claimed.Load() {
		return nil, c.Was, nil
	}
	due, g, err := q.Queue.Claim(ctx, c)
	q.claimed.Store(len(due) > 0)
	return due, g, err
}

func (q *watched) Finish(ctx context.Context, results []provision.Result) (int, error) {
	stale, err := q.Queue.Finish(ctx, results)
	if err == nil {
		q.stale <- stale
	}
	return stale, err
}

// A worker is suspended in the middle of a call. When it resumes, it no longer has the lease: neither its
// result nor its reply may be written.
func TestPausedWorkerIsTooLate(t *testing.T) {
	expire := func(f *fixture) {
		if _, err := f.pool.Exec(t.Context(), "UPDATE storage SET lease_until = now()"); err != nil {
			f.t.Fatal(err)
		}
	}
	other := func(f *fixture) {
		defer f.work(&scripted{call: func(context.Context, provision.Storage) error { return nil }}, nil)()
		testenv.Eventually(f.t, 10*time.Second, "the other worker",
			func() bool { return f.get(1).Status != provision.Pending })
	}
	for name, c := range map[string]struct {
		meanwhile func(f *fixture)
		events    string
	}{
		"another has it in hand": {func(f *fixture) { expire(f); f.claim(1, time.Minute) }, ""},
		"another has done it":    {func(f *fixture) { expire(f); other(f) }, "storage.provisioned 1"},
		"another has removed it": {func(f *fixture) { expire(f); f.apply(command(1, 2, provision.Absent)); other(f) },
			"storage.deprovisioned 2"},
		"it shall be removed": {func(f *fixture) { f.apply(command(1, 2, provision.Absent)) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			f.apply(command(1, 1, provision.Present))
			called, resume := make(chan struct{}), make(chan struct{})
			paused := &watched{Queue: f, stale: make(chan int, 1)}
			stop := f.work(&scripted{call: func(context.Context, provision.Storage) error {
				close(called)
				<-resume
				return nil
			}}, func(w *provision.Worker) { w.Queue = paused })
			<-called
			c.meanwhile(f)
			before := f.get(1)
			close(resume)
			testenv.Eventually(t, 10*time.Second, "the result", func() bool { return len(paused.stale) > 0 })
			if stale := <-paused.stale; stale != 1 {
				t.Errorf("%d results refused", stale)
			}
			stop()
			if after := f.get(1); after.Version != before.Version || after.Status != before.Status {
				t.Errorf("before %+v, after %+v", before, after)
			}
			f.expectEvents(contract.Essential, c.events)
		})
	}
}

// A group may hold the results of two attempts of this process on one storage: one from an expired lease and
// one from the next attempt.
func TestTwoResultsOfOneStorage(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present))
	late := f.claim(1, time.Microsecond)
	var again []provision.Storage
	testenv.Eventually(t, 5*time.Second, "the lease to run out",
		func() bool { again = f.claim(1, time.Minute); return len(again) == 1 })
	f.finish(1, policy.After(late[0], nil), policy.After(again[0], nil))
	f.expectEvents(contract.Essential, "storage.provisioned 1")
}

// A worker dies after the provider's success. The next worker finds that the storage exists.
func TestDeathBetweenCallAndResult(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present))
	path := filepath.Join(t.TempDir(), "ledger")
	ledger := provider.NewLedger(path, f.Store)
	files := provider.NewFS(t.TempDir(), f.Store, ledger)
	if _, err := provider.Identify(t.Context(), files, f.Store, false); err != nil {
		t.Fatal(err)
	}
	dead := f.claim(1, time.Minute)
	if err := files.Create(t.Context(), dead[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := f.pool.Exec(t.Context(), "UPDATE storage SET lease_until = now()"); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	stop := f.work(&scripted{call: func(ctx context.Context, s provision.Storage) error {
		calls.Add(1)
		return files.Create(ctx, s)
	}}, nil)
	f.eventuallyReady(1)
	stop()
	lines, err := os.ReadFile(path)
	if err != nil || strings.Count(string(lines), "\n") != 1 || calls.Load() != 1 {
		t.Errorf("%d more calls, ledger %s, %v", calls.Load(), lines, err)
	}
	f.expectEvents(contract.Essential, "storage.provisioned 1")
}

// unreliable fails the first few calls of one method, before or after it has done the work.
type unreliable struct {
	provision.Queue
	method string
	done   bool // the work is done, and reported as failed
	left   atomic.Int64
}

var errLost = errors.New("connection lost")

func (q *unreliable) fails(method string) bool {
	return method == q.method && q.left.Add(-1) >= 0
}

func (q *unreliable) Breaker(ctx context.Context) (provision.Breaker, error) {
	if q.fails("Breaker") {
		return provision.Breaker{}, errLost
	}
	return q.Queue.Breaker(ctx)
}

func (q *unreliable) SetBreaker(ctx context.Context, was, next provision.Breaker) (bool, error) {
	if !q.fails("SetBreaker") {
		return q.Queue.SetBreaker(ctx, was, next)
	}
	if q.done {
		_, _ = q.Queue.SetBreaker(ctx, was, next)
	}
	return false, errLost
}

func (q *unreliable) Claim(ctx context.Context, c provision.Claim) ([]provision.Storage, provision.Breaker, error) {
	if !q.fails("Claim") {
		return q.Queue.Claim(ctx, c)
	}
	if q.done {
		_, _, _ = q.Queue.Claim(ctx, c)
	}
	return nil, provision.Breaker{}, errLost
}

func (q *unreliable) Finish(ctx context.Context, results []provision.Result) (int, error) {
	if !q.fails("Finish") {
		return q.Queue.Finish(ctx, results)
	}
	if q.done {
		_, _ = q.Queue.Finish(ctx, results)
	}
	return 0, errLost
}

// Every statement of the worker fails once or twice, with or without its effect, around a short outage. In the
// end each storage is ready, with one reply.
func TestEveryWriteOfTheWorkerFails(t *testing.T) {
	const storages = 30
	for _, method := range []string{"Breaker", "SetBreaker", "Claim", "Finish"} {
		for _, done := range []bool{false, true} {
			t.Run(method+map[bool]string{false: " before", true: " after"}[done], func(t *testing.T) {
				f := open(t)
				var commands []provision.Command
				for i := range storages {
					commands = append(commands, command(i, 1, provision.Present))
				}
				f.apply(commands...)
				var calls atomic.Int64
				p := &scripted{call: func(context.Context, provision.Storage) error {
					if calls.Add(1) <= 8 {
						return errAway
					}
					return nil
				}}
				q := &unreliable{Queue: f, method: method, done: done}
				q.left.Store(2)
				stop := f.work(p, func(w *provision.Worker) {
					w.Queue, w.Lease = q, 500*time.Millisecond
					w.Policy.OutageCap, w.Policy.Rate = 10*time.Millisecond, 1000
				})
				f.eventuallyReady(storages)
				stop()
				if q.left.Load() > 0 {
					t.Errorf("%s failed %d times too few", method, q.left.Load())
				}
				if n := f.count("SELECT count(*) FROM outbox_event_essential"); n != storages {
					t.Errorf("%d replies to %d commands", n, storages)
				}
				if n := f.count("SELECT count(*) FROM storage WHERE attempts <> 1"); n != 0 {
					t.Errorf("%d storages with another number of attempts", n)
				}
				if n := f.count("SELECT count(*) FROM provider_gate WHERE state = 'closed'"); n != 1 {
					t.Error("the breaker stayed open")
				}
			})
		}
	}
}

// Of several claims that were prepared on the same breaker, one succeeds. None succeeds on a breaker whose state has
// changed, with or without permits in hand.
func TestClaimsAgreeOnTheBreaker(t *testing.T) {
	f := open(t)
	var commands []provision.Command
	for i := range 50 {
		commands = append(commands, command(i, 1, provision.Present))
	}
	f.apply(commands...)
	was, err := f.Breaker(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claim := func(next *provision.Breaker) int {
		due, now, err := f.Claim(t.Context(),
			provision.Claim{N: 5, Token: newToken(), Lease: time.Minute, Was: was, Next: next})
		if err != nil || now.Version == 0 {
			t.Error(now, err)
		}
		return len(due)
	}
	next := was
	next.Taken += 5
	var claimed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { claimed.Add(int64(claim(&next))) })
	}
	wg.Wait()
	if n := claimed.Load(); n != 5 || f.count("SELECT count(*) FROM storage WHERE lease_token IS NOT NULL") != 5 {
		t.Errorf("%d claimed with 5 permits", n)
	}
	if n := claim(nil); n != 5 {
		t.Errorf("%d claimed with permits in hand", n)
	}
	opened, at := was, was.Now
	opened.Version, opened.State, opened.OpenedAt = was.Version+1, provision.BreakerOpen, &at
	for _, want := range []bool{true, false} {
		if written, err := f.SetBreaker(t.Context(), was, opened); err != nil || written != want {
			t.Errorf("opened: %v, %v, want %v", written, err, want)
		}
	}
	was.Taken += 5
	if n := claim(nil) + claim(&next); n != 0 {
		t.Errorf("%d claimed through an open breaker", n)
	}
}
