package service

import (
	"context"
	"log/slog"
	"math/bits"
	"math/rand/v2"
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

// Loop calls fn until ctx ends: again at once while it reports more, else after
// interval or when wake (which may be nil) delivers. After an error it backs
// off, from 50 ms to 5 s, deaf to wake: a caller that wakes it for every request
// must not turn an outage into a busy loop. fn is never called concurrently.
func Loop(ctx context.Context, name string, interval time.Duration, wake <-chan struct{}, log *slog.Logger, fn func(ctx context.Context) (more bool, err error)) {
	failures := 0
	for ctx.Err() == nil {
		more, err := fn(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			logFailure(ctx, log, name, failures, err)
			pause(ctx, Backoff(failures, 50*time.Millisecond, 5*time.Second))
			continue
		case failures > 0:
			log.Info("recovered", "task", name, "failures", failures)
			failures = 0
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

// logFailure tells of failures 1, 2, 4, 8, …: an outage is worth some lines, not
// one for each attempt.
func logFailure(ctx context.Context, log *slog.Logger, name string, n int, err error) {
	if bits.OnesCount(uint(n)) == 1 {
		log.WarnContext(ctx, "failed, will retry", "task", name, "failures", n, "error", err)
	}
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
