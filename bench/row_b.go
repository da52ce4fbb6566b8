package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const steadyRate = 1000 // events per second

// rowB measures how a long transaction elsewhere in the database affects the flow. Each run begins without the
// transaction; that part is the limit.
func (b *bench) rowB(ctx context.Context) error {
	b.section().method = fmt.Sprintf(
		"1,000 events/s, first %s without and then %s with the transaction (peers %s), consumer attached; the "+
			"spread is that of the thirds of a run",
		b.pin/5, b.pin, b.peerPin)
	if err := b.besideLongTransactions(ctx, outboxMaker, b.pin); err != nil || !b.peers {
		return err
	}
	for _, m := range []maker{riverTuned, watermillMaker} {
		if err := b.besideLongTransactions(ctx, m, b.peerPin); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) besideLongTransactions(ctx context.Context, m maker, lasts time.Duration) error {
	for _, v := range []struct {
		name    string
		disturb disturbance
	}{{"a pinned snapshot", pinSnapshot}, {"an open writer", openWriter}} {
		outs, dead, err := b.steady(ctx, m, steadyRate, 3, phase{lasts / 5, nil}, phase{lasts, v.disturb})
		if err != nil {
			return err
		}
		without, with := outs[0], outs[1]
		rate := line{what: m.name + ", " + v.name + "; limit: without", unit: "events/s", limit: without.throughput,
			value: with.throughput}
		middle := line{what: "the same, p50", unit: "ms", limit: without.p50, value: with.p50}
		tail := line{what: "the same, p99", unit: "ms", limit: without.p99, value: with.p99}
		ours := m.name == outboxMaker.name
		if ours {
			rate.goal, tail.goal = atLeast(0.95), atMost(1.5)
		}
		b.report(rate)
		b.report(middle)
		b.report(tail)
		if ours {
			b.report(line{what: "the same, dead rows in the outbox tables", unit: "rows", value: series{dead},
				goal: atMost(0)})
		}
		if v.name == "a pinned snapshot" {
			b.section().charts = append(b.section().charts, curve{m.name, with.points})
		}
	}
	return nil
}

// pinSnapshot holds a snapshot, as a report or a backup does.
func pinSnapshot(ctx context.Context, s *site, _ system, _ *flights) (func() error, error) {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return nil, err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "-- name: pin\nSELECT count(*) FROM member"); err != nil {
		return nil, err
	}
	return func() error {
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		return conn.Close(ctx)
	}, nil
}

// openWriter appends an event and commits it only at the end. Meanwhile its xid holds back every snapshot's
// xmin, and its id is a gap.
func openWriter(ctx context.Context, s *site, sys system, f *flights) (func() error, error) {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return nil, err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	n := s.take(1)
	if err := sys.append(ctx, tx, n); err != nil {
		return nil, err
	}
	return func() error {
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		f.commit(n, time.Now())
		sys.wake()
		return conn.Close(ctx)
	}, nil
}
