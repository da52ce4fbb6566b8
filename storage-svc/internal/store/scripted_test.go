package store_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// scripted is a provider that does what the test says.
type scripted struct {
	provision.Provider // for methods that the worker does not call

	call    func(ctx context.Context, s provision.Storage) error
	running atomic.Int64
	most    atomic.Int64
}

func (p *scripted) Create(ctx context.Context, s provision.Storage) error {
	n := p.running.Add(1)
	defer p.running.Add(-1)
	for m := p.most.Load(); n > m && !p.most.CompareAndSwap(m, n); m = p.most.Load() {
	}
	return p.call(ctx, s)
}

func (p *scripted) Remove(ctx context.Context, s provision.Storage) error { return p.Create(ctx, s) }

func (f *fixture) work(p *scripted, change func(*provision.Worker)) (stop func()) {
	w := &provision.Worker{
		Queue: f, Provider: p,
		Policy:      provision.Policy{Base: time.Millisecond, Cap: time.Millisecond, OutageCap: time.Millisecond},
		Concurrency: 4, Timeout: 5 * time.Second, Lease: time.Minute, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(w)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
	}
}

func (f *fixture) eventuallyReady(n int) {
	f.t.Helper()
	testenv.Eventually(f.t, 15*time.Second, "storages to be ready", func() bool {
		return f.count("SELECT count(*) FROM storage WHERE status = 'ready'") == n
	})
}

func TestWorkerIsBoundedAndAHangingCallBlocksNoOther(t *testing.T) {
	f := open(t)
	var commands []provision.Command
	for i := range 20 {
		commands = append(commands, command(i, 1, provision.Present))
	}
	f.apply(commands...)
	release := make(chan struct{})
	p := &scripted{call: func(_ context.Context, s provision.Storage) error {
		if s.MemberID == id(0) {
			<-release
		}
		return nil
	}}
	stop := f.work(p, nil)
	f.eventuallyReady(19)
	close(release)
	f.eventuallyReady(20)
	stop()
	if most := p.most.Load(); most > 4 {
		t.Errorf("%d calls at once", most)
	}
}

func TestWorkerRetriesUntilItWorks(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present))
	var calls atomic.Int64
	p := &scripted{call: func(ctx context.Context, _ provision.Storage) error {
		switch n := calls.Add(1); {
		case n == 1:
			<-ctx.Done() // hangs past the deadline of the call
			return ctx.Err()
		case n < 4:
			return errors.New("connection reset")
		}
		return nil
	}}
	defer f.work(p, func(w *provision.Worker) { w.Timeout = 20 * time.Millisecond })()
	f.eventuallyReady(1)
	if s := f.get(1); s.Attempts != 4 || s.Error() != nil {
		t.Errorf("row %+v", s)
	}
	if n := strings.Count(f.events(contract.NonEssential), "storage.attempt-failed"); n != 2 {
		t.Errorf("%d failures reported, want those of attempts 1 and 2", n)
	}
	f.expectEvents(contract.Essential, "storage.provisioned 1")
}

func TestWorkerWritesResultsInHandWhenStopped(t *testing.T) {
	f := open(t)
	f.apply(command(1, 1, provision.Present), command(2, 1, provision.Present))
	started, release := make(chan struct{}, 2), make(chan struct{})
	p := &scripted{call: func(context.Context, provision.Storage) error {
		started <- struct{}{}
		<-release
		return nil
	}}
	stop := f.work(p, nil)
	<-started
	<-started
	go close(release)
	stop()
	if n := f.count("SELECT count(*) FROM storage WHERE status = 'ready' AND lease_token IS NULL"); n != 2 {
		t.Errorf("%d results written", n)
	}
}

func TestWorkerWakesAtOnce(t *testing.T) {
	f := open(t)
	wake := make(chan struct{}, 1)
	called := make(chan time.Time, 1)
	p := &scripted{call: func(context.Context, provision.Storage) error { called <- time.Now(); return nil }}
	idle := make(chan struct{})
	defer f.work(p, func(w *provision.Worker) {
		w.Wake = wake
		w.Queue = &firstClaim{Queue: f, done: idle}
	})()
	<-idle
	f.apply(command(1, 1, provision.Present))
	at := time.Now()
	wake <- struct{}{}
	if took := (<-called).Sub(at); took > 500*time.Millisecond {
		t.Errorf("took %v", took)
	}
	f.eventuallyReady(1)
}

// firstClaim closes done when the first claim has been made.
type firstClaim struct {
	provision.Queue
	once sync.Once
	done chan struct{}
}

func (q *firstClaim) Claim(ctx context.Context, c provision.Claim) ([]provision.Storage, provision.Breaker, error) {
	defer q.once.Do(func() { close(q.done) })
	return q.Queue.Claim(ctx, c)
}
