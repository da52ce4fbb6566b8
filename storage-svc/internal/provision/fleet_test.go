package provision_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// fleet is a database and a provider in memory, for workers that run in a bubble of synctest: ten minutes of
// outage take a moment.
type fleet struct {
	mu      sync.Mutex
	breaker provision.Breaker
	due     []provision.Storage
	later   []provision.Result // failed; due again after their delay
	settled []provision.Storage

	answer  func(ctx context.Context, s provision.Storage) error
	calls   []time.Time
	running int
	most    int // most calls at once since it was set to 0
}

func newFleet(storages int) *fleet {
	f := &fleet{breaker: provision.Breaker{Version: 1, State: provision.BreakerClosed}}
	for i := range storages {
		f.due = append(f.due, provision.Storage{MemberID: fmt.Sprint(i), Generation: 1, Desired: provision.Present,
			Status: provision.Pending, Version: 1})
	}
	return f
}

func (f *fleet) Breaker(context.Context) (provision.Breaker, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.breaker.Now = time.Now()
	return f.breaker, nil
}

func (f *fleet) SetBreaker(_ context.Context, was, next provision.Breaker) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.breaker.Version != was.Version || f.breaker.Failures != was.Failures {
		return false, nil
	}
	next.Permits, next.FilledAt, next.Taken = f.breaker.Permits, f.breaker.FilledAt, f.breaker.Taken
	f.breaker = next
	return true, nil
}

func (f *fleet) Claim(
	_ context.Context, c provision.Claim,
) (claimed []provision.Storage, b provision.Breaker, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.breaker.Now = now
	waiting := f.later[:0]
	for _, r := range f.later {
		if r.Next.NextAttemptAt.After(now) {
			waiting = append(waiting, r)
		} else {
			f.due = append(f.due, r.Next)
		}
	}
	f.later = waiting
	n := min(c.N, len(f.due))
	if n == 0 || f.breaker.Version != c.Was.Version || (c.Next != nil && f.breaker.Taken != c.Was.Taken) {
		return nil, f.breaker, nil
	}
	if c.Next != nil {
		f.breaker = *c.Next
	}
	for _, s := range f.due[:n] {
		s.LeaseToken = &c.Token
		claimed = append(claimed, s)
	}
	f.due = f.due[n:]
	return claimed, f.breaker, nil
}

func (f *fleet) Finish(_ context.Context, results []provision.Result) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range results {
		if r.Next.Status != provision.Pending {
			f.settled = append(f.settled, r.Next)
			continue
		}
		at := time.Now().Add(r.Delay)
		r.Next.NextAttemptAt = &at
		f.later = append(f.later, r)
	}
	return 0, nil
}

func (f *fleet) Create(ctx context.Context, s provision.Storage) error {
	f.mu.Lock()
	f.calls = append(f.calls, time.Now())
	f.running++
	f.most = max(f.most, f.running)
	answer := f.answer
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
	}()
	return answer(ctx, s)
}

func (f *fleet) Remove(ctx context.Context, s provision.Storage) error { return f.Create(ctx, s) }

func (f *fleet) List(context.Context, string, int) ([]provision.Resource, error) { return nil, nil }

// set changes how the provider answers. It returns the number of calls so far, and the most at once since the
// last change.
func (f *fleet) set(answer func(context.Context, provision.Storage) error) (calls, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	most, f.answer, f.most = f.most, answer, 0
	return len(f.calls), most
}

// start runs a number of replicas with 16 workers each.
func (f *fleet) start(t *testing.T, replicas int, rate float64) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range replicas {
		w := &provision.Worker{
			Queue: f, Provider: f, Concurrency: 16, Timeout: 5 * time.Second, Lease: 15 * time.Second,
			Log: slog.New(slog.DiscardHandler),
			Policy: provision.Policy{Base: 200 * time.Millisecond, Cap: 30 * time.Second, OutageCap: 2 * time.Second,
				Rate: rate},
		}
		running.Go(func() { _ = w.Run(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

// busiest returns the most calls within any second, from the nth call on.
func (f *fleet) busiest(n int) (most int) {
	for first := n; n < len(f.calls); n++ {
		for f.calls[n].Sub(f.calls[first]) >= time.Second {
			first++
		}
		most = max(most, n-first+1)
	}
	return most
}

func works(ctx context.Context, _ provision.Storage) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(7 * time.Millisecond):
		return nil
	}
}

func away(context.Context, provision.Storage) error {
	return &provision.Failure{Class: provision.ClassOutage, Err: errors.New("connection refused")}
}

// Ten minutes without the provider, 20,000 storages waiting, two replicas: one call at a time probes whether it
// is back. Calls resume slowly, without the permits from before the outage, and keep to the rate.
func TestLongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const storages, rate = 20_000, 1000
		f := newFleet(storages)
		f.set(away)
		stop := f.start(t, 2, rate)
		<-time.After(3 * time.Second)
		first, _ := f.set(away)
		<-time.After(10 * time.Minute)
		recovery, most := f.set(works)
		if during := recovery - first; first > 40 || most != 1 || during < 250 || during > 301 {
			t.Errorf("%d calls, then %d in 10 minutes, %d at once", first, during, most)
		}
		<-time.After(30 * time.Second)
		stop()
		ramp := make([]int, 8) // calls in each second of the recovery
		for _, at := range f.calls[recovery:] {
			if second := int(at.Sub(f.breaker.ClosedAt) / time.Second); second < len(ramp) {
				ramp[second]++
			}
		}
		if ramp[0] > rate/32 || ramp[3] > rate/4 || ramp[7] < rate*9/10 {
			t.Errorf("recovery %v", ramp)
		}
		if n := f.busiest(recovery); n > rate*11/10 {
			t.Errorf("%d calls within a second", n)
		}
		if len(f.settled) != storages {
			t.Fatalf("%d of %d settled", len(f.settled), storages)
		}
		for _, s := range f.settled {
			if s.Status != provision.Ready || s.Attempts != 1 {
				t.Fatalf("the outage left its mark: %+v", s)
			}
		}
	})
}

// The rate holds for all replicas together, whether or not they can keep up.
func TestRateOfAllReplicas(t *testing.T) {
	for _, c := range []struct {
		replicas  int
		rate      float64
		time      time.Duration
		most, all int // most calls in a second; fewest calls in all
	}{
		{2, 1000, 10 * time.Second, 1_100, 9_500},
		{2, 20, time.Minute, 23, 1_150}, // one permit in hand of each replica, one in the budget
		{1, 0.5, time.Minute, 1, 29},
		{2, 0, 3 * time.Second, 1 << 20, 10_000}, // unlimited
	} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(20_000)
				f.set(works)
				stop := f.start(t, c.replicas, c.rate)
				<-time.After(c.time)
				stop()
				if n := f.busiest(0); n > c.most || len(f.calls) < c.all {
					t.Errorf("%d calls, %d of them within a second", len(f.calls), n)
				}
			})
		})
	}
}

// If a provider asks one caller to wait, nobody calls it.
func TestRetryAfterHoldsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(2_000)
		f.set(func(context.Context, provision.Storage) error {
			return &provision.Failure{Class: provision.ClassThrottled, RetryAfter: 30 * time.Second,
				Err: errors.New("slow down")}
		})
		stop := f.start(t, 2, 0)
		<-time.After(time.Second)
		told, _ := f.set(works)
		<-time.After(28 * time.Second)
		quiet, _ := f.set(works)
		<-time.After(5 * time.Minute)
		stop()
		if told > 32 || quiet != told || len(f.settled) != 2_000 {
			t.Errorf("%d calls, %d after half a minute, %d settled", told, quiet, len(f.settled))
		}
	})
}

// Calls that never end count as an outage too, unless they are always for the same storage.
func TestHangingProvider(t *testing.T) {
	hang := func(ctx context.Context, _ provision.Storage) error {
		<-ctx.Done()
		return ctx.Err()
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(1_000)
		f.set(hang)
		stop := f.start(t, 2, 0)
		<-time.After(6 * time.Second)
		first, _ := f.set(hang)
		<-time.After(time.Minute)
		calls, most := f.set(works)
		<-time.After(time.Minute)
		stop()
		if first > 42 || most != 1 || calls-first > 12 || len(f.settled) != 1_000 {
			t.Errorf("%d calls, then %d in a minute, %d at once; %d settled", first, calls-first, most, len(f.settled))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(1)
		f.set(hang)
		stop := f.start(t, 2, 0)
		<-time.After(10 * time.Minute)
		stop()
		if f.breaker.State != provision.BreakerClosed || len(f.calls) < 20 {
			t.Errorf("breaker %s after %d calls", f.breaker.State, len(f.calls))
		}
	})
}

// A probe whose worker died is followed by another one when its lease ends.
func TestLostProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(100)
		lost, opened := "lost", time.Now()
		f.breaker = provision.Breaker{
			Version: 1, State: provision.BreakerHalfOpen, ProbeToken: &lost, OpenedAt: &opened,
			NotBefore: opened.Add(15 * time.Second),
		}
		f.set(works)
		stop := f.start(t, 2, 0)
		<-time.After(14 * time.Second)
		early, _ := f.set(works)
		<-time.After(time.Minute)
		stop()
		closed := f.breaker.State == provision.BreakerClosed && f.breaker.OpenedAt == nil
		if early != 0 || len(f.settled) != 100 || !closed {
			t.Errorf("%d calls, then %d settled, breaker %+v", early, len(f.settled), f.breaker)
		}
	})
}
