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

// Queue holds the storages that are due, and the gate before the provider.
type Queue interface {
	// Gate reads the gate.
	Gate(ctx context.Context) (Gate, error)
	// SetGate writes what came of was, unless that is another one by now. The
	// budget is left alone.
	SetGate(ctx context.Context, was, next Gate) (written bool, err error)
	// Claim leases due storages, which nobody else gets for that time, and
	// returns the gate as it is then.
	Claim(ctx context.Context, c Claim) ([]Storage, Gate, error)
	// Finish writes results and their replies in one transaction, leaving out
	// those whose storage or lease is no longer what it was; stale counts these.
	Finish(ctx context.Context, results []Result) (stale int, err error)
}

// Claim asks for due storages.
type Claim struct {
	N     int // at most
	Token string
	Lease time.Duration
	Was   Gate  // nothing is claimed if it is another one by now
	Next  *Gate // to be written if anything is claimed; nil: it stays as it is
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
	Tracer      *service.Tracer // of attempts on storages that carry a trace; may be nil
	// Attempted, if not nil, is told the end of each attempt: a class, or "ok".
	Attempted func(desired Desired, class string, took time.Duration)

	turnstile turnstile
	failures  *service.Failures // of calls, since the provider was last found well
	failed    time.Time         // the last of them
	moved     chan struct{}     // the gate was changed by this worker
}

// Run works until ctx ends, then lets the calls in hand end and writes their
// results. It returns nil.
func (w *Worker) Run(ctx context.Context) error {
	w.moved = make(chan struct{}, 1)
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

// claim gets up to n due storages, as many as the gate admits, and says whether
// there may be more. If none is admitted, it waits and looks at the gate again.
func (w *Worker) claim(ctx context.Context, n int) (due []Storage, more bool, err error) {
	c, wait, err := w.turnstile.admit(w.Policy, n, w.Lease)
	if err != nil {
		return nil, false, err
	}
	if wait > 0 {
		select {
		case <-ctx.Done():
			return nil, false, nil
		case <-w.moved:
		case <-time.After(min(wait, pollInterval)):
		}
	}
	// Not interrupted by ctx: leases that nobody heard of would have to run out.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	if wait > 0 {
		g, err := w.Queue.Gate(ctx)
		if err == nil {
			w.turnstile.saw(g)
		}
		return nil, true, err
	}
	due, g, err := w.Queue.Claim(ctx, c)
	if err != nil {
		return nil, false, err
	}
	return due, w.turnstile.claimed(c, len(due), g), nil
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

// call asks the provider for what is desired.
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

// failed marks a span with the class of an error, whose text is for logs and operators.
func failed(span trace.Span, class string) {
	if span.IsRecording() {
		span.SetAttributes(attribute.String("error.type", class))
		span.SetStatus(codes.Error, "")
	}
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
		w.explain(ctx, group)
		w.report(ctx, group)
		w.write(ctx, group, first.at.Add(w.Lease))
		for range group {
			<-slots
		}
	}
}

// report tells the gate what a group of calls says about the provider. While
// all is well it has nothing to tell. What cannot be told is dropped: there will
// be more of the kind, and a probe without a result is given up in the end.
func (w *Worker) report(ctx context.Context, group []Result) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	g := w.turnstile.now()
	for {
		next, changed := w.Policy.judge(g, group)
		if !changed {
			return
		}
		written, err := w.Queue.SetGate(ctx, g, next)
		if err == nil && written {
			w.turnstile.saw(next)
			select {
			case w.moved <- struct{}{}:
			default:
			}
			w.logGate(g, next)
			return
		}
		if err == nil { // another replica was quicker
			g, err = w.Queue.Gate(ctx)
		}
		if err != nil {
			w.Log.Warn("the gate was not told of calls", "count", len(group), "error", err)
			return
		}
	}
}

// forgetFailures is how long after the last failure the next one of its kind is told
// in full again.
const forgetFailures = 10 * time.Minute

// explain logs why calls failed: each kind once, and again rarely. What the provider
// refused for good is answered, and told there.
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
		_ = w.failures.Add(ctx, fmt.Errorf("%s: %s", f.Class, printable(f.Error())))
	}
}

// logGate says that the provider went away and why, or that it is back. A probe that
// met nobody once more is no news.
func (w *Worker) logGate(was, next Gate) {
	switch {
	case was.State == GateClosed && next.State != GateClosed:
		reason := next.Reason()
		w.Log.Warn("the provider is away", "class", reason.Class, "error", reason.Message)
	case was.State != GateClosed && next.State == GateClosed && was.OpenedAt != nil:
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
		cancel() // ends the loop
		return false, nil
	})
}
