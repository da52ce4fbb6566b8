package provision

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// Provider makes storages exist and not exist. Create and Remove may be repeated
// and raced by others: an existing storage is created successfully, an absent
// one removed successfully. Create of a removed one fails with [ErrTombstoned].
// Errors whose class is known are a [Failure].
type Provider interface {
	Create(ctx context.Context, s Storage) error
	Remove(ctx context.Context, s Storage) error
	// List returns what there is of the members whose ids follow after, in the
	// order of their ids: at most limit of them, from 1 to MaxResources, and
	// none only if there are no more. What changes meanwhile may be missing.
	List(ctx context.Context, after string, limit int) ([]Resource, error)
}

// Queue holds the storages that are due.
type Queue interface {
	// Claim leases up to n due storages; nobody else gets them for that time.
	Claim(ctx context.Context, n int, lease time.Duration) ([]Storage, error)
	// Finish writes results and their replies in one transaction, leaving out
	// those whose storage or lease is no longer what it was; stale counts these.
	Finish(ctx context.Context, results []Result) (stale int, err error)
}

const (
	pollInterval = time.Second
	claimTimeout = 3 * time.Second
)

// Worker drives due storages to their desired state.
type Worker struct {
	Queue       Queue
	Provider    Provider
	Policy      Policy
	Concurrency int           // provider calls at the same time
	Timeout     time.Duration // of one call; must be shorter than Lease
	Lease       time.Duration
	Wake        <-chan struct{} // something became due
	Log         *slog.Logger
	// Attempted, if not nil, is told the end of each attempt: a class, or "ok".
	Attempted func(desired Desired, class string, took time.Duration)
}

// Run works until ctx ends, then lets the calls in hand end and writes their
// results. It returns nil.
func (w *Worker) Run(ctx context.Context) error {
	slots := make(chan struct{}, w.Concurrency)
	results := make(chan claimed, w.Concurrency)
	done := make(chan struct{})
	go func() { defer close(done); w.finish(context.WithoutCancel(ctx), results, slots) }()
	var calls sync.WaitGroup
	service.Loop(ctx, "storage worker", pollInterval, w.Wake, w.Log, func(ctx context.Context) (more bool, err error) {
		n := acquire(ctx, slots)
		if n == 0 {
			return false, nil
		}
		began := time.Now()
		due, err := w.claim(ctx, n)
		for _, s := range due {
			calls.Go(func() { results <- claimed{w.attempt(context.WithoutCancel(ctx), s), began} })
		}
		for range n - len(due) {
			<-slots
		}
		return len(due) == n, err
	})
	calls.Wait()
	close(results)
	<-done
	return nil
}

// claim is not interrupted by ctx: leases that nobody heard of would have to
// run out.
func (w *Worker) claim(ctx context.Context, n int) ([]Storage, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	return w.Queue.Claim(ctx, n, w.Lease)
}

// acquire waits for a free slot and takes all that are free, so that one query
// claims for them all. It returns 0 if ctx ends.
func acquire(ctx context.Context, slots chan struct{}) int {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	for n := 1; ; n++ {
		select {
		case slots <- struct{}{}:
		default:
			return n
		}
	}
}

type claimed struct {
	Result
	at time.Time // shortly before its lease began
}

func (w *Worker) attempt(ctx context.Context, s Storage) Result {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	began := time.Now()
	call := w.Provider.Create
	if s.Desired == Absent {
		call = w.Provider.Remove
	}
	err := call(ctx, s)
	class := "ok"
	if err != nil {
		class = string(classify(err).Class)
	}
	if w.Attempted != nil {
		w.Attempted(s.Desired, class, time.Since(began))
	}
	return w.Policy.After(s, err)
}

// finish writes results in groups of what has come in meanwhile, and frees
// their slots. A group that cannot be written before its leases end is dropped:
// the storages are due again then, and the provider's operations repeatable.
func (w *Worker) finish(ctx context.Context, results <-chan claimed, slots <-chan struct{}) {
	for first := range results {
		group := []Result{first.Result}
		for more := true; more && len(group) < w.Concurrency; {
			select {
			case r, ok := <-results:
				if more = ok; ok {
					group = append(group, r.Result)
				}
			default:
				more = false
			}
		}
		w.write(ctx, group, first.at.Add(w.Lease))
		for range group {
			<-slots
		}
	}
}

func (w *Worker) write(ctx context.Context, group []Result, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	service.Loop(ctx, "storage results", time.Hour, nil, w.Log, func(ctx context.Context) (bool, error) {
		stale, err := w.Queue.Finish(ctx, group)
		if err != nil {
			return false, err
		}
		if stale > 0 {
			w.Log.Info("results refused: overtaken by a newer command or another worker", "count", stale)
		}
		cancel() // ends the loop
		return false, nil
	})
}
