package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
)

// flights records when each event was committed and when it was received, as
// time since began. Slots are written by one goroutine each, and once.
type flights struct {
	ledger
	began     time.Time
	committed []atomic.Int64
	received  []atomic.Int64
}

func newFlights(events int) *flights {
	return &flights{began: time.Now(), committed: make([]atomic.Int64, events), received: make([]atomic.Int64, events)}
}

func (f *flights) commit(n int, at time.Time) { f.committed[n].Store(int64(at.Sub(f.began))) }

func (f *flights) receive(_ jetstream.Msg, id string) {
	at := time.Since(f.began)
	if n, first := f.add(id); first && n < len(f.received) {
		f.received[n].Store(int64(at))
	}
}

// point is the latency of the events committed within one second.
type point struct{ second, p50, p99 float64 }

// evaluate returns the latency of all events, by second too, and how many
// events per second were received up to end. An event may be received before
// its writer has heard of the commit; that counts as no latency.
func (f *flights) evaluate(n int, end time.Duration) (all latencies, points []point, throughput float64) {
	var seconds []latencies
	inTime := 0
	for i := range min(n, len(f.committed)) {
		committed, received := time.Duration(f.committed[i].Load()), time.Duration(f.received[i].Load())
		took := max(0, received-committed)
		all = append(all, took)
		at := int(committed / time.Second)
		for at >= len(seconds) {
			seconds = append(seconds, nil)
		}
		seconds[at] = append(seconds[at], took)
		if received <= end {
			inTime++
		}
	}
	for i, s := range seconds {
		if p50, p99 := s.percentiles(); len(s) > 0 {
			points = append(points, point{float64(i), p50, p99})
		}
	}
	return all, points, float64(inTime) / end.Seconds()
}

// outcome is what a steady flow of events looked like.
type outcome struct {
	throughput float64 // events received per second while they were sent
	p50, p99   float64 // ms from commit to receipt
	points     []point
	dead       float64 // dead, updated and deleted rows in the outbox tables
}

// disturbance begins something at a site that hinders others until it is released.
type disturbance func(ctx context.Context, s *site, sys system, f *flights) (release func() error, err error)

// steady appends events rate times a second for d, each in a transaction of its
// own, and measures how long they take from the commit to a consumer.
func (b *bench) steady(ctx context.Context, m maker, rate float64, d time.Duration, disturb disturbance) (out outcome, err error) {
	err = b.at(ctx, m, func(s *site, sys system) error {
		f := newFlights(int(rate*d.Seconds()) + 2)
		stop, err := s.consume(ctx, f.receive)
		if err != nil {
			return err
		}
		defer stop()
		err = relaying(ctx, sys, func() error {
			if err := warmUp(ctx, s, sys, f); err != nil {
				return err
			}
			release := func() error { return nil }
			if disturb != nil {
				if release, err = disturb(ctx, s, sys, f); err != nil {
					return err
				}
			}
			_, err := openLoop(ctx, rate, d, func(ctx context.Context) error { return send(ctx, s, sys, f) })
			end := time.Since(f.began)
			if err = errors.Join(err, release()); err != nil {
				return err
			}
			if err := arrived(ctx, s, f); err != nil {
				return err
			}
			var all latencies
			all, out.points, out.throughput = f.evaluate(s.appended(), end)
			out.p50, out.p99 = all.percentiles()
			return nil
		})
		if err != nil {
			return err
		}
		out.dead, err = deadRows(ctx, s)
		return errors.Join(err, f.check(s.appended()), storedOnce(ctx, s))
	})
	return out, err
}

// send commits one event and wakes the system.
func send(ctx context.Context, s *site, sys system, f *flights) error {
	n := s.take(1)
	if raw, ok := sys.(*rawFlow); ok {
		f.commit(n, time.Now())
		return raw.send(ctx, n)
	}
	if err := pgx.BeginFunc(ctx, s.clients, func(tx pgx.Tx) error { return sys.append(ctx, tx, n) }); err != nil {
		return err
	}
	f.commit(n, time.Now())
	sys.wake()
	return nil
}

// warmUp sends one event through and starts the clock again, so that nobody's
// start is measured.
func warmUp(ctx context.Context, s *site, sys system, f *flights) error {
	if err := send(ctx, s, sys, f); err != nil {
		return err
	}
	if err := arrived(ctx, s, f); err != nil {
		return err
	}
	f.began = time.Now()
	f.committed[0].Store(0)
	f.received[0].Store(0)
	return nil
}

// arrived waits until every event was received.
func arrived(ctx context.Context, s *site, f *flights) error {
	return s.progress(ctx, s.appended(), func(context.Context) (int, error) { return f.count(), nil })
}

// storedOnce fails if the stream holds more messages than there are events.
func storedOnce(ctx context.Context, s *site) error {
	stored, err := s.stored(ctx)
	if err == nil && stored != s.appended() {
		err = fmt.Errorf("the stream holds %d messages of %d events", stored, s.appended())
	}
	return err
}

// deadRows counts what relaying has left for vacuum to clean. Sessions report
// their statistics when they end, so the relay has to be stopped before.
func deadRows(ctx context.Context, s *site) (n float64, err error) {
	err = s.clients.QueryRow(ctx, `-- name: deadRows
SELECT coalesce(sum(n_dead_tup + n_tup_upd + n_tup_del), 0)::float8 FROM pg_stat_user_tables WHERE relname LIKE 'outbox\_%'`).Scan(&n)
	return n, err
}

// rawFlow is the limit of row L: one round trip to Postgres, then one message.
type rawFlow struct{ *site }

var rawMaker = maker{"raw", func(_ context.Context, s *site) (system, error) { return &rawFlow{s}, nil }}

func (r *rawFlow) fill(context.Context, int) error           { return errors.ErrUnsupported }
func (r *rawFlow) append(context.Context, pgx.Tx, int) error { return errors.ErrUnsupported }
func (r *rawFlow) start(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}
func (r *rawFlow) wake() {}
func (r *rawFlow) send(ctx context.Context, n int) error {
	var id int64
	err := r.clients.QueryRow(ctx, "-- name: roundTrip\nSELECT coalesce(max(id), 0) FROM outbox_event_"+lane).Scan(&id)
	if err != nil {
		return err
	}
	return r.nc.PublishMsg(rawMessage(r.site, n))
}

// flows returns a figure of each outcome.
func flows(outs []outcome, figure func(outcome) float64) series {
	return slices.Collect(func(yield func(float64) bool) {
		for _, o := range outs {
			if !yield(figure(o)) {
				return
			}
		}
	})
}

func throughput(o outcome) float64 { return o.throughput }
func p50(o outcome) float64        { return o.p50 }
func p99(o outcome) float64        { return o.p99 }
func dead(o outcome) float64       { return o.dead }
