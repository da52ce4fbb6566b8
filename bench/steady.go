package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
)

// warmUp is how long events flow before anything is measured: connecting, preparing statements, filling buffers
// and elections do not count as latency.
const warmUp = time.Second

// flights records when each event was committed and when it was received, as time since began. Each slot is
// written once, by one goroutine.
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

// outcome is the result of a steady flow of events, by part of its time.
type outcome struct {
	throughput series // events received per second
	p50, p99   series // ms from commit to receipt
	points     []point
}

// span is the time in which the events from first up to, but not including, last were sent.
type span struct {
	first, last int
	from, to    time.Duration // since began
}

// evaluate splits a span into parts of equal length. The latency of a part is that of the events committed in
// it; the throughput is that of the events received in it. An event may be received before its writer learns of
// the commit; that counts as zero latency.
func (f *flights) evaluate(s span, parts int) (out outcome) {
	length := (s.to - s.from) / time.Duration(parts)
	took, received := make([]latencies, parts), make([]float64, parts)
	var seconds []latencies
	for i := s.first; i < min(s.last, len(f.committed)); i++ {
		committed, arrived := time.Duration(f.committed[i].Load())-s.from, time.Duration(f.received[i].Load())-s.from
		latency := max(0, arrived-committed)
		part := min(int(committed/length), parts-1) // an open writer commits after the end
		took[part] = append(took[part], latency)
		if at := int(arrived / length); at < parts {
			received[at]++
		}
		second := int(committed / time.Second)
		for second >= len(seconds) {
			seconds = append(seconds, nil)
		}
		seconds[second] = append(seconds[second], latency)
	}
	for i := range parts {
		p50, p99 := took[i].percentiles()
		out.p50, out.p99 = append(out.p50, p50), append(out.p99, p99)
		out.throughput = append(out.throughput, received[i]/length.Seconds())
	}
	for i, s := range seconds {
		if p50, p99 := s.percentiles(); len(s) > 0 {
			out.points = append(out.points, point{float64(i), p50, p99})
		}
	}
	return out
}

// and appends the outcome of another repetition.
func (o outcome) and(next outcome) outcome {
	return outcome{append(o.throughput, next.throughput...), append(o.p50, next.p50...), append(o.p99, next.p99...),
		o.points}
}

// disturbance starts something at a site that hinders others until release is called.
type disturbance func(ctx context.Context, s *site, sys system, f *flights) (release func() error, err error)

// phase is a part of a steady flow.
type phase struct {
	lasts   time.Duration
	disturb disturbance // nil for none
}

// steady appends events rate times a second, each in its own transaction, and measures, phase by phase, how long
// they take from the commit to a consumer. dead counts the rows of the outbox tables that relaying left dead,
// updated or deleted. Each outcome is split into parts.
func (b *bench) steady(
	ctx context.Context, m maker, rate float64, parts int, phases ...phase,
) (outs []outcome, dead float64, err error) {
	total := warmUp
	for _, p := range phases {
		total += p.lasts
	}
	err = b.at(ctx, m, func(s *site, sys system) error {
		f := newFlights(int(rate*total.Seconds()) + 2*len(phases) + 2)
		stop, err := s.consume(ctx, f.receive)
		if err != nil {
			return err
		}
		defer stop()
		defer b.watch(func() string {
			return fmt.Sprintf("%s: %d events sent, %d received", m.name, s.appended(),
				f.count())
		})()
		err = relaying(ctx, sys, func() error {
			if _, err := flow(ctx, s, sys, f, rate, phase{lasts: warmUp}); err != nil {
				return err
			}
			for _, p := range phases {
				sent, err := flow(ctx, s, sys, f, rate, p)
				if err != nil {
					return err
				}
				outs = append(outs, f.evaluate(sent, parts))
			}
			return nil
		})
		if err != nil {
			return err
		}
		dead, err = deadRows(ctx, s)
		return errors.Join(err, f.check(s.appended()), storedOnce(ctx, s))
	})
	return outs, dead, err
}

// flow sends one phase of events and waits until all have arrived.
func flow(ctx context.Context, s *site, sys system, f *flights, rate float64, p phase) (sent span, err error) {
	sent.first, sent.from = s.appended(), time.Since(f.began)
	release := func() error { return nil }
	if p.disturb != nil {
		if release, err = p.disturb(ctx, s, sys, f); err != nil {
			return sent, err
		}
	}
	_, err = openLoop(ctx, rate, p.lasts, func(ctx context.Context) error { return send(ctx, s, sys, f) })
	sent.to = time.Since(f.began)
	if err = errors.Join(err, release()); err == nil {
		err = arrived(ctx, s, f)
	}
	sent.last = s.appended()
	return sent, err
}

// send commits one event and wakes the system.
func send(ctx context.Context, s *site, sys system, f *flights) error {
	n := s.take(1)
	if raw, ok := sys.(*rawSystem); ok {
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

// arrived waits until every event has been received.
func arrived(ctx context.Context, s *site, f *flights) error {
	return progress(ctx, s.appended(), func(context.Context) (int, error) { return f.count(), nil })
}

// storedOnce fails unless the stream holds as many messages as there are events.
func storedOnce(ctx context.Context, s *site) error {
	stored, err := s.stored(ctx)
	if err == nil && stored != s.appended() {
		err = fmt.Errorf("the stream holds %d messages of %d events", stored, s.appended())
	}
	return err
}

// deadRows counts the rows that relaying has left for vacuum. Sessions report their statistics when they end, so
// the relay must be stopped first.
func deadRows(ctx context.Context, s *site) (n float64, err error) {
	err = s.clients.QueryRow(ctx, `-- name: deadRows
SELECT coalesce(sum(n_dead_tup + n_tup_upd + n_tup_del), 0)::float8 FROM pg_stat_user_tables
    WHERE relname LIKE 'outbox\_%'`).Scan(&n)
	return n, err
}
