package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/outbox"
)

// rowN measures what it costs the writers to wake the relay.
func (b *bench) rowN(ctx context.Context) error {
	const none, wake, notify = 0, 1, 2
	b.section().method = fmt.Sprintf(
		"%d repetitions of %s each after a fifth of it to warm up, %d connections, the relay publishing beside them",
		b.reps+2, b.slice, connections)
	rates := make([]series, 3)
	for rep := range b.reps + 2 {
		err := b.at(ctx, outboxMaker, func(s *site, sys system) error {
			err := relaying(ctx, sys, func() error {
				stop, err := listen(ctx, s, sys.wake)
				if err != nil {
					return err
				}
				err = rotated(rep, len(rates), func(variant int) error {
					rate, err := b.wakeRate(ctx, s, sys, variant == wake, variant == notify)
					rates[variant] = append(rates[variant], rate)
					return errors.Join(err, s.drained(ctx, s.appended()))
				})
				return errors.Join(err, stop())
			})
			return errors.Join(err, s.audit(ctx))
		})
		if err != nil {
			return err
		}
		b.note("   %d/%d: no wake-up %s, Wake %s, NOTIFY %s tx/s", rep+1, b.reps+2,
			number(rates[none][rep]), number(rates[wake][rep]), number(rates[notify][rep]))
	}
	b.report(line{what: "a row and an event, Wake after the commit; c = 64; limit: no wake-up", unit: "tx/s",
		limit: rates[none], value: rates[wake], goal: atLeast(0.95)})
	b.report(line{what: "the same with NOTIFY inside the transaction", unit: "tx/s", limit: rates[none],
		value: rates[notify]})
	return nil
}

func (b *bench) wakeRate(ctx context.Context, s *site, sys system, wake, notify bool) (float64, error) {
	write := func(ctx context.Context) error {
		batch := new(pgx.Batch)
		batch.Queue("-- name: insertBare\nINSERT INTO bare (text) VALUES ('x')")
		outbox.AppendBatch(batch, newEvent(s.take(1)))
		if notify {
			batch.Queue("-- name: notify\nSELECT pg_notify('bench', '')")
		}
		err := s.clients.SendBatch(ctx, batch).Close()
		if wake {
			sys.wake()
		}
		return err
	}
	if _, err := closedLoop(ctx, b.slice/5, write); err != nil {
		return 0, err
	}
	return closedLoop(ctx, b.slice, write)
}

// listen calls f for every notification until it is stopped.
func listen(ctx context.Context, s *site, f func()) (stop func() error, err error) {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "-- name: listen\nLISTEN bench"); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	heard, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := conn.WaitForNotification(heard); err != nil {
				return
			}
			f()
		}
	}()
	return func() error { cancel(); <-done; return conn.Close(context.WithoutCancel(ctx)) }, nil
}
