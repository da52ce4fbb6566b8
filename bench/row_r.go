package main

import (
	"context"
	"time"
)

// rowR measures how fast a backlog is published.
func (b *bench) rowR(ctx context.Context) error {
	systems := []maker{outboxMaker}
	if b.peers {
		systems = append(systems, riverTuned, riverDefault, watermillMaker)
	}
	var limit series
	rates := make([]series, len(systems))
	for rep := range b.reps {
		rate, err := b.rawRate(ctx)
		if err != nil {
			return err
		}
		limit = append(limit, rate)
		b.note("R  %d/%d: raw %s msg/s", rep+1, b.reps, number(rate))
		for i, m := range systems {
			n := b.backlog
			if i > 0 {
				n = b.peerBacklog
			}
			rate, err := b.drainRate(ctx, m, n)
			if err != nil {
				return err
			}
			rates[i] = append(rates[i], rate)
			b.note("R  %d/%d: %s %s msg/s", rep+1, b.reps, m.name, number(rate))
		}
	}
	b.drain = rates[0].median()
	b.report(line{row: "R", what: "drain of " + number(float64(b.backlog)) + " events; limit: raw atomic batches of 1000", unit: "msg/s",
		limit: limit, value: rates[0], goal: atLeast(0.85)})
	for i, m := range systems[1:] {
		l := line{row: "R", what: "the outbox; limit: " + m.name + ", " + number(float64(b.peerBacklog)) + " events", unit: "msg/s", limit: rates[i+1], value: rates[0]}
		if m.name == riverTuned.name {
			l.goal = atLeast(10)
		}
		b.report(l)
	}
	return nil
}

func (b *bench) rawRate(ctx context.Context) (rate float64, err error) {
	none := maker{"raw", func(context.Context, *site) (system, error) { return nil, nil }}
	err = b.at(ctx, none, func(s *site, _ system) error {
		began := time.Now()
		if err := rawDrain(ctx, s, b.backlog); err != nil {
			return err
		}
		rate = float64(b.backlog) / time.Since(began).Seconds()
		return s.audit(ctx)
	})
	return rate, err
}

// drainRate fills a backlog and returns how many events per second leave it.
func (b *bench) drainRate(ctx context.Context, m maker, n int) (rate float64, err error) {
	err = b.at(ctx, m, func(s *site, sys system) error {
		if err := sys.fill(ctx, n); err != nil {
			return err
		}
		if _, err := b.admin.Exec(ctx, checkpointSQL); err != nil {
			return err
		}
		before := b.usage()
		began := time.Now()
		err := b.profiled("R-"+m.name, func() error {
			return relaying(ctx, sys, func() error {
				err := s.drained(ctx, n)
				rate = float64(n) / time.Since(began).Seconds()
				return err
			})
		})
		if err != nil {
			return err
		}
		b.note("R  %s: %s", m.name, b.usage().since(before))
		return s.audit(ctx)
	})
	return rate, err
}

// needDrain makes sure that the rate of row R is known.
func (b *bench) needDrain(ctx context.Context) (err error) {
	if b.drain == 0 {
		b.drain, err = b.drainRate(ctx, outboxMaker, b.backlog)
	}
	return err
}
