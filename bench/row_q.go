package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// rowQ measures signups and the relay at the same time: a large backlog is drained while signups arrive, however
// long their responses take.
func (b *bench) rowQ(ctx context.Context) error {
	if err := errors.Join(b.needSignups(ctx), b.needDrain(ctx)); err != nil {
		return err
	}
	rate := 0.3 * b.signups
	b.section().method = fmt.Sprintf(
		"%d repetitions, backlog of %s events, signups at 0.3 × row W whatever their answers take; without "+
			"backlog for %s",
		b.reps, number(float64(b.bigBacklog)), b.calm)
	var drain, limit, calm, busy series
	for rep := range b.reps {
		err := b.at(ctx, outboxMaker, func(s *site, sys system) error {
			// warm up: statements, tables that are not empty
			if _, err := b.writeRate(ctx, s, sys, box); err != nil {
				return err
			}
			if err := b.drainAndAudit(ctx, s, sys); err != nil {
				return err
			}
			c, err := b.signupsBeside(ctx, s, sys, rate, b.calm, nil)
			if err != nil {
				return err
			}
			before := s.appended()
			if err := sys.fill(ctx, b.bigBacklog); err != nil {
				return err
			}
			drained := make(chan error, 1)
			began := time.Now()
			var took time.Duration
			longest := max(time.Minute, time.Duration(float64(b.bigBacklog)/b.drain*10)*time.Second)
			q, err := b.signupsBeside(ctx, s, sys, rate, longest, func() {
				err := s.drained(ctx, before+b.bigBacklog)
				took = time.Since(began)
				drained <- err
			})
			if err = errors.Join(err, <-drained); err != nil {
				return err
			}
			drain, limit = append(drain, float64(b.bigBacklog)/took.Seconds()), append(limit, b.drain)
			_, p99 := c.percentiles()
			calm = append(calm, p99)
			_, p99 = q.percentiles()
			busy = append(busy, p99)
			return b.drainAndAudit(ctx, s, sys)
		})
		if err != nil {
			return err
		}
		b.note("   %d/%d: drain %s msg/s; signup p99 %s ms, without backlog %s ms", rep+1, b.reps, number(drain[rep]),
			number(busy[rep]), number(calm[rep]))
	}
	b.report(line{what: "drain beside " + number(rate) + " signups/s; limit: row R", unit: "msg/s",
		limit: limit, value: drain, goal: atLeast(0.5)})
	b.report(line{what: "signup p99 meanwhile; limit: without backlog", unit: "ms", limit: calm, value: busy,
		goal: atMost(2)})
	return nil
}

// signupsBeside makes signups arrive while the relay runs, for d or until enough returns.
func (b *bench) signupsBeside(
	ctx context.Context, s *site, sys system, rate float64, d time.Duration, enough func(),
) (took latencies, err error) {
	err = relaying(ctx, sys, func() error {
		load, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		if enough != nil {
			go func() {
				enough()
				cancel(errEnough)
			}()
		}
		var err error
		took, err = openLoop(load, rate, d, func(context.Context) error {
			err := signUp(ctx, s, s.take(2), throughOutbox) // a signup that has begun is completed
			sys.wake()
			return err
		})
		return err
	})
	return took, err
}
