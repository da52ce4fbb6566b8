package provision

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/signup-saga/signup-saga/service"
)

// Provider creates and removes storages. Create and Remove may be repeated and run concurrently with other
// processes': creating an existing storage and removing an absent one succeed. Create of a removed storage
// fails with [ErrTombstoned]. Errors with a known class are a [Failure].
type Provider interface {
	Create(ctx context.Context, s Storage) error
	Remove(ctx context.Context, s Storage) error
	// List returns what the provider has of the members whose ids follow after, in the order of their ids: at
	// most limit of them, from 1 to MaxResources, and none only if there are no more. What changes meanwhile
	// may be missing.
	List(ctx context.Context, after string, limit int) ([]Resource, error)
}

// Queue contains the storages that are due, and the breaker before the provider.
type Queue interface {
	// Breaker reads the breaker.
	Breaker(ctx context.Context) (Breaker, error)
	// SetBreaker replaces was by next, unless the stored breaker is no longer was. It leaves the budget alone.
	SetBreaker(ctx context.Context, was, next Breaker) (written bool, err error)
	// Claim leases due storages, so that nobody else gets them for that time, and returns the breaker as it is
	// afterwards.
	Claim(ctx context.Context, c Claim) ([]Storage, Breaker, error)
	// Finish writes results and their replies in one transaction. It leaves out results whose storage or lease
	// has changed meanwhile, and returns their number as stale.
	Finish(ctx context.Context, results []Result) (stale int, err error)
}

// Claim asks for due storages.
type Claim struct {
	N     int // most storages to claim
	Token string
	Lease time.Duration
	Was   Breaker  // nothing is claimed if the stored breaker is another one
	Next  *Breaker // written if anything is claimed; nil: the breaker stays as it is
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
	Wake        <-chan struct{} // receives when something has become due
	Log         *slog.Logger
	Tracer      *service.Tracer // makes spans of attempts on storages that carry a trace; may be nil
	// Attempted, if not nil, is called at the end of each attempt with its class, or "ok".
	Attempted func(desired Desired, class string, took time.Duration)

	limiter  limiter
	failures *service.Failures // of calls, since the provider was last found to be available
	failed   time.Time         // when the last call failed
	changed  chan struct{}     // receives when this worker has changed the breaker
}

// Run works until ctx ends. Then it waits for the calls in progress and writes their results. It returns nil.
func (w *Worker) Run(ctx context.Context) error {
	w.changed = make(chan struct{}, 1)
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
		due, more, err := w.claim(ctx, n)
		for _, s := range due {
			calls.Go(func() { results <- claimed{w.attempt(context.WithoutCancel(ctx), s), began} })
		}
		for range n - len(due) {
			<-slots
		}
		return more, err
	})
	calls.Wait()
	close(results)
	<-done
	return nil
}

// claim gets up to n due storages, as many as the breaker admits, and reports whether more may be due. If none is
// admitted, it waits and reads the breaker again.
func (w *Worker) claim(ctx context.Context, n int) (due []Storage, more bool, err error) {
	c, wait, err := w.limiter.admit(w.Policy, n, w.Lease)
	if err != nil {
		return nil, false, err
	}
	if wait > 0 {
		select {
		case <-ctx.Done():
			return nil, false, nil
		case <-w.changed:
		case <-time.After(min(wait, pollInterval)):
		}
	}
	// ctx does not interrupt the query: nobody would know of the leases that it took, and they would have to
	// run out.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	if wait > 0 {
		b, err := w.Queue.Breaker(ctx)
		if err == nil {
			w.limiter.update(b)
		}
		return nil, true, err
	}
	due, b, err := w.Queue.Claim(ctx, c)
	if err != nil {
		return nil, false, err
	}
	return due, w.limiter.claimed(c, len(due), b), nil
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
	ctx, span := w.Tracer.Continue(service.WithTraceParent(ctx, s.TraceParent), "attempt", trace.SpanKindInternal)
	defer span.End()
	began := time.Now()
	err := w.call(ctx, s)
	class := "ok"
	if err != nil {
		class = string(classify(err).Class)
	}
	if w.Attempted != nil {
		w.Attempted(s.Desired, class, time.Since(began))
	}
	r := w.Policy.After(s, err)
	if r.Reply != nil {
		r.Reply.TraceParent = service.TraceParent(ctx)
	}
	if span.IsRecording() {
		span.SetAttributes(attribute.String("saga.id", s.SagaID), attribute.Int64("saga.generation", s.Generation),
			attribute.String("storage.desired", string(s.Desired)),
			attribute.Int("storage.attempt", r.Next.Attempts+r.Next.OutageAttempts))
	}
	if err != nil {
		failed(span, class)
		w.Log.DebugContext(ctx, "attempt failed", "saga_id", s.SagaID, "class", class, "again_in", r.Delay)
	}
	return r
}

// call calls the provider for the desired state.
func (w *Worker) call(ctx context.Context, s Storage) error {
	name, call := "provider create", w.Provider.Create
	if s.Desired == Absent {
		name, call = "provider remove", w.Provider.Remove
	}
	ctx, span := w.Tracer.Continue(ctx, name, trace.SpanKindClient)
	defer span.End()
	err := call(ctx, s)
	if err != nil {
		failed(span, string(classify(err).Class))
	}
	return err
}

// failed marks a span with the class of an error. The error's text is only for logs and operators.
func failed(span trace.Span, class string) {
	if span.IsRecording() {
		span.SetAttributes(attribute.String("error.type", class))
		span.SetStatus(codes.Error, "")
	}
}

// finish writes results in groups of those that have arrived, and frees their slots. A group that cannot be
// written before its leases end is dropped. That is safe: the storages are then due again, and the provider's
// operations can be repeated.
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
		w.explain(ctx, group)
		w.report(ctx, group)
		w.write(ctx, group, first.at.Add(w.Lease))
		for range group {
			<-slots
		}
	}
}

// report updates the breaker after a group of calls. While all is well, there is nothing to update. If the update
// fails, it is dropped: more calls will fail in the same way, and a probe without a result is given up when its
// lease ends.
func (w *Worker) report(ctx context.Context, group []Result) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	b := w.limiter.now()
	for {
		next, changed := w.Policy.record(b, group)
		if !changed {
			return
		}
		written, err := w.Queue.SetBreaker(ctx, b, next)
		if err == nil && written {
			w.limiter.update(next)
			select {
			case w.changed <- struct{}{}:
			default:
			}
			w.logBreaker(b, next)
			return
		}
		if err == nil { // another replica changed the breaker first
			b, err = w.Queue.Breaker(ctx)
		}
		if err != nil {
			w.Log.Warn("results of calls were not reported to the breaker", "count", len(group), "error", err)
			return
		}
	}
}

// forgetFailures is how long after the last failure the next one of its kind is logged in full again.
const forgetFailures = 10 * time.Minute

// explain logs why calls failed: each kind once, and then rarely. Rejections are not logged here: their answer
// reports them.
func (w *Worker) explain(ctx context.Context, group []Result) {
	for _, r := range group {
		f := r.Failure
		if f == nil || f.Class == ClassRejected {
			continue
		}
		if w.failures == nil || time.Since(w.failed) > forgetFailures {
			w.failures = &service.Failures{Task: "provider", Log: w.Log}
		}
		w.failed = time.Now()
		_ = w.failures.Add(ctx, fmt.Errorf("%s: %s", f.Class, service.CleanText(f.Error())))
	}
}

// logBreaker logs that the provider became unavailable and why, or that it is available again. It does not log
// another failed probe.
func (w *Worker) logBreaker(was, next Breaker) {
	switch {
	case was.State == BreakerClosed && next.State != BreakerClosed:
		reason := next.Reason()
		w.Log.Warn("the provider is away", "class", reason.Class, "error", reason.Message)
	case was.State != BreakerClosed && next.State == BreakerClosed && was.OpenedAt != nil:
		w.Log.Info("the provider is back", "after", next.Now.Sub(*was.OpenedAt), "probes", was.Failures+1)
		w.failures = nil
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
		cancel() // end the loop
		return false, nil
	})
}
