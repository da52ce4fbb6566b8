package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// closedLoop makes all clients call do again and again for d. It returns the number of calls per second, and the
// first error.
func closedLoop(ctx context.Context, d time.Duration, do func(ctx context.Context) error) (rate float64, err error) {
	rates, err := closedParts(ctx, d, 1, do)
	return rates[0], err
}

// closedParts is a closed loop whose time is split into parts of equal length. rates holds the rate of the calls
// that ended in each part.
func closedParts(
	ctx context.Context, d time.Duration, parts int, do func(ctx context.Context) error,
) (rates series, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	calls, length := make([]atomic.Int64, parts), d/time.Duration(parts)
	began := time.Now()
	for range connections {
		wg.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil {
				if err := do(ctx); err != nil {
					cancel(err)
					return
				}
				if part := int(time.Since(began) / length); part < parts {
					calls[part].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range calls {
		rates = append(rates, float64(calls[i].Load())/length.Seconds())
	}
	return rates, context.Cause(ctx)
}

// errEnough ends an open loop from inside do.
var errEnough = errors.New("enough")

// openLoop calls do rate times a second for d, whether or not earlier calls have returned. Each client makes one
// call at a time; calls that are due wait for a free client. It returns how long each call took, counted from
// when it was due.
func openLoop(
	ctx context.Context, rate float64, d time.Duration, do func(ctx context.Context) error,
) (latencies, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		due  = make(chan time.Time, int(rate*d.Seconds())+1)
		mu   sync.Mutex
		took latencies
		wg   sync.WaitGroup
	)
	for range connections {
		wg.Go(func() {
			for at := range due {
				if ctx.Err() != nil {
					return
				}
				if err := do(ctx); err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				took = append(took, time.Since(at))
				mu.Unlock()
			}
		})
	}
	pace(ctx, rate, d, due)
	wg.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return took, nil
}

// pace sends the times at which calls are due, then closes the channel.
func pace(ctx context.Context, rate float64, d time.Duration, due chan<- time.Time) {
	defer close(due)
	began := time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	for i := range int(rate * d.Seconds()) {
		at := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if wait := time.Until(at); wait > 0 {
			t.Reset(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		due <- at // never blocks: the buffer has room for all
	}
}
