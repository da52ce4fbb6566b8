package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const steadyRate = 1000 // events per second

// rowB measures what a long transaction elsewhere in the database does to the flow.
func (b *bench) rowB(ctx context.Context) error {
	systems := []maker{outboxMaker}
	if b.peers {
		systems = append(systems, riverTuned, watermillMaker)
	}
	for _, m := range systems {
		if err := b.besideLongTransactions(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) besideLongTransactions(ctx context.Context, m maker) error {
	variants := []struct {
		name    string
		disturb disturbance
	}{{"nothing beside it", nil}, {"a pinned snapshot", pinSnapshot}, {"an open writer", openWriter}}
	outs := make([][]outcome, len(variants))
	for rep := range b.reps {
		for i, v := range variants {
			out, err := b.steady(ctx, m, steadyRate, b.pin, v.disturb)
			if err != nil {
				return err
			}
			outs[i] = append(outs[i], out)
			b.note("B  %d/%d: %s, %s: %s/s, p50 %s, p99 %s ms, %s dead rows", rep+1, b.reps, m.name, v.name,
				number(out.throughput), number(out.p50), number(out.p99), number(out.dead))
			if rep == 0 && i == 1 {
				b.charts = append(b.charts, curve{m.name, out.points})
			}
		}
	}
	ours := m.name == outboxMaker.name
	for i, v := range variants[1:] {
		with := outs[i+1]
		rate := line{row: "B", what: m.name + ", " + v.name + "; limit: without", unit: "events/s", limit: flows(outs[0], throughput), value: flows(with, throughput)}
		tail := line{row: "B", what: "the same, p99", unit: "ms", limit: flows(outs[0], p99), value: flows(with, p99)}
		if ours {
			rate.goal, tail.goal = atLeast(0.95), atMost(1.5)
		}
		b.report(rate)
		b.report(line{row: "B", what: "the same, p50", unit: "ms", limit: flows(outs[0], p50), value: flows(with, p50)})
		b.report(tail)
		if ours {
			b.report(line{row: "B", what: "the same, dead rows in the outbox tables", unit: "rows", value: flows(with, dead), goal: atMost(0)})
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

// openWriter appends an event and commits it only at the end: its xid holds
// back every snapshot's xmin, and its id is a gap meanwhile.
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
