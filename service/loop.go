package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"net"
	"regexp"
	"sync"
	"time"
)

// Backoff returns how long to wait after attempt failed attempts (from 1): a
// random time below base × 2^(attempt-1), at most ceiling ("full jitter", so
// that many waiters spread out). Safe for concurrent use.
func Backoff(attempt int, base, ceiling time.Duration) time.Duration {
	limit := ceiling
	if shift := max(attempt-1, 0); shift < 32 && base<<shift < ceiling && base<<shift > 0 {
		limit = base << shift
	}
	if limit <= 0 {
		return 0
	}
	return rand.N(limit)
}

// ErrIdle is returned by a step of a [Loop] that had nothing to do and so did not try its work. It is neither a
// failure nor a success: whatever failed before may still fail.
var ErrIdle = errors.New("nothing to do")

// Loop calls fn until ctx ends: again at once while fn reports more, otherwise after interval or when wake
// (which may be nil) delivers. After an error it backs off, from 50 ms to 5 s, and ignores wake: a caller that
// wakes it for every request must not turn an outage into a busy loop. fn is never called concurrently. fn
// returns [ErrIdle] for a pass that says nothing about whether its work succeeds; any other pass without an
// error ends a run of failures.
func Loop(
	ctx context.Context, name string, interval time.Duration, wake <-chan struct{}, log *slog.Logger,
	fn func(ctx context.Context) (more bool, err error),
) {
	failures := Failures{Task: name, Log: log}
	for ctx.Err() == nil {
		more, err := fn(ctx)
		idle := errors.Is(err, ErrIdle)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !idle:
			pause(ctx, Backoff(failures.Add(ctx, err), 50*time.Millisecond, 5*time.Second))
			continue
		case !idle:
			failures.Recovered()
		}
		if more {
			continue
		}
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// periodic returns a task that calls fn at an interval, as [Loop] does.
func periodic(
	name string, interval time.Duration, log *slog.Logger, fn func(ctx context.Context) (more bool, err error),
) Task {
	return Task{Name: name, Run: func(ctx context.Context) error {
		Loop(ctx, name, interval, nil, log, fn)
		return nil
	}}
}

// Failures logs why a task fails: the first failure of each kind, and then the 2nd, 4th, 8th and so on of that
// kind. Two errors are of one kind if their texts differ only in numbers and ids. An outage logs a few lines,
// not one per attempt, and an old cause never hides a new one. Safe for concurrent use.
type Failures struct {
	Task    string       // for logs
	Message string       // default: "failed, will retry"
	Log     *slog.Logger // required

	mu    sync.Mutex
	total int
	kinds map[string]int
}

// maxKinds bounds the memory of a run of failures: kinds beyond it count as one.
const maxKinds = 32

// varying matches what differs between two errors of one kind: ids, durations, ports and other long numbers. It
// leaves the three-digit codes of protocols.
var varying = regexp.MustCompile(
	`[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+(\.\d+)? ?(ns|µs|ms|s|sec|seconds|minutes)\b|\d{4,}`)

// Add counts a failure, logs it if it is due, and returns the number of failures since the last success.
func (f *Failures) Add(ctx context.Context, err error) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind := varying.ReplaceAllString(err.Error(), "#")
	if f.kinds[kind] == 0 && len(f.kinds) >= maxKinds {
		kind = "other"
	}
	if f.kinds == nil {
		f.kinds = make(map[string]int)
	}
	f.kinds[kind]++
	f.total++
	if n := f.kinds[kind]; bits.OnesCount(uint(n)) == 1 {
		f.Log.WarnContext(ctx, cmp.Or(f.Message, "failed, will retry"),
			"task", f.Task, "failures", f.total, "alike", n, "error", explainName(err))
	}
	return f.total
}

// explainName adds what to do if err is about a host name that did not resolve.
func explainName(err error) error {
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		return err
	}
	return fmt.Errorf("the host name %s does not resolve: "+
		"correct the setting that names it, or fix DNS: %w", dns.Name, err)
}

// Recovered resets the counts. Call it when the work has succeeded; it logs the recovery if the work had failed
// before.
func (f *Failures) Recovered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.total > 0 {
		f.Log.Info("recovered", "task", f.Task, "failures", f.total)
	}
	f.total, f.kinds = 0, nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
