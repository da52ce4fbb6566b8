package main

import (
	"context"
	"errors"
	"fmt"
)

// variant is a way to write.
type variant int

// The variants of row W: a bare row, a signup with plain inserts, one through the outbox, and one through the outbox
// while the relay publishes.
const (
	bare variant = iota
	plain
	box
	relayed
)

// rowW measures what the outbox adds to the cost of a signup.
func (b *bench) rowW(ctx context.Context) error {
	b.section().method = fmt.Sprintf(
		"%d repetitions of %s each after a fifth of it to warm up, %d connections, one round trip per signup", b.reps+2,
		b.slice, connections)
	rates := make([]series, 4)
	for rep := range b.reps + 2 { // short runs need more repetitions
		err := b.at(ctx, outboxMaker, func(s *site, sys system) error {
			err := rotated(rep, len(rates), func(i int) error {
				rate, err := b.writeRate(ctx, s, sys, variant(i))
				rates[i] = append(rates[i], rate)
				return err
			})
			return errors.Join(err, b.drainAndAudit(ctx, s, sys))
		})
		if err != nil {
			return err
		}
		b.note("   %d/%d: bare %s, plain %s, outbox %s, while relaying %s tx/s", rep+1, b.reps+2,
			number(rates[bare][rep]), number(rates[plain][rep]), number(rates[box][rep]), number(rates[relayed][rep]))
	}
	b.signups = rates[box].median()
	b.report(line{what: "signup: member, saga, timeline, 2 events; c = 64; limit: plain inserts", unit: "tx/s",
		limit: rates[plain], value: rates[box], goal: atLeast(0.90)})
	b.report(line{what: "the same with the relay publishing beside it", unit: "tx/s", limit: rates[plain],
		value: rates[relayed]})
	b.report(line{what: "plain inserts; limit: one bare row", unit: "tx/s", limit: rates[bare], value: rates[plain]})
	return nil
}

// writeRate runs one variant for a slice of time.
func (b *bench) writeRate(ctx context.Context, s *site, sys system, as variant) (rate float64, err error) {
	write := func(ctx context.Context) error { return signUp(ctx, s, s.take(2), throughOutbox) }
	switch as {
	case bare:
		write = func(ctx context.Context) error {
			_, err := s.clients.Exec(ctx, "-- name: insertBare\nINSERT INTO bare (text) VALUES ('x')")
			return err
		}
	case plain:
		write = func(ctx context.Context) error { return signUp(ctx, s, 0, plainInsert) }
	case relayed:
		err := b.drainAndAudit(ctx, s, sys) // the events that earlier variants left
		if err != nil {
			return 0, err
		}
		err = relaying(ctx, sys, func() error {
			rate, err = closedLoop(ctx, b.slice, func(ctx context.Context) error {
				err := signUp(ctx, s, s.take(2), throughOutbox)
				sys.wake()
				return err
			})
			return err
		})
		return rate, err
	}
	if _, err := closedLoop(ctx, b.slice/5, write); err != nil { // connections, plans
		return 0, err
	}
	return closedLoop(ctx, b.slice, write)
}

// drainAndAudit relays the remaining events and checks the stream.
func (b *bench) drainAndAudit(ctx context.Context, s *site, sys system) error {
	err := relaying(ctx, sys, func() error { return s.drained(ctx, s.appended()) })
	if err != nil {
		return err
	}
	return s.audit(ctx)
}

// needSignups measures the rate of row W unless it is known.
func (b *bench) needSignups(ctx context.Context) error {
	if b.signups > 0 {
		return nil
	}
	return b.at(ctx, outboxMaker, func(s *site, sys system) (err error) {
		b.signups, err = b.writeRate(ctx, s, sys, box)
		return err
	})
}
