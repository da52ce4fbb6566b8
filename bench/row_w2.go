package main

import (
	"context"
	"errors"
	"fmt"
)

// rowW2 measures what HTTP, the checks, the look-up and the relay add to row W.
func (b *bench) rowW2(ctx context.Context) error {
	b.section().method = fmt.Sprintf(
		"%d repetitions of %s each after a fifth of it to warm up, %d connections; POST /v1/members at a real "+
			"member-svc that relays, "+
			"password hashes that cost next to nothing (argon2id, 64 KiB, one pass), the Storage service stopped. "+
			"The limit is row W's signup through the outbox, at library level, measured in between",
		b.reps+2, b.slice, connections)
	var limit, ours series
	var note string
	err := b.withMembers(ctx, "http", func(s *stack) error {
		parties, err := b.stackParties(ctx, s)
		if err != nil {
			return err
		}
		for rep := range b.reps + 2 {
			err := rotated(rep, 2, func(variant int) (err error) {
				var rate float64
				if variant == 0 {
					err = b.at(ctx, outboxMaker, func(at *site, sys system) (err error) {
						rate, err = b.writeRate(ctx, at, sys, box)
						return err
					})
					limit = append(limit, rate)
					return err
				}
				if _, err := closedLoop(ctx, b.slice/5, s.post); err != nil {
					return err
				}
				before := b.usage(parties)
				rate, err = closedLoop(ctx, b.slice, s.post)
				ours = append(ours, rate)
				note = costs(b.usage(parties), before, rate, "signup")
				return err
			})
			if err != nil {
				return err
			}
			b.note("   %d/%d: at library level %s, over HTTP %s tx/s", rep+1, b.reps+2, number(limit[rep]),
				number(ours[rep]))
		}
		return s.counted(ctx)
	})
	if err != nil {
		return err
	}
	b.report(line{what: "POST /v1/members, c = 64; limit: row W's signup", unit: "signups/s", limit: limit, value: ours,
		goal: atLeast(0.5)})
	b.section().notes = append(b.section().notes, note)
	return nil
}

// withMembers runs f with a member-svc on the shared servers. No service replies to its commands.
func (b *bench) withMembers(ctx context.Context, name string, f func(s *stack) error, flags ...string) error {
	s, err := b.startStack(ctx, name, b.servers.postgres.url, flags...)
	if err != nil {
		return err
	}
	if err = s.stop(ctx, "storage"); err == nil {
		err = f(s)
	}
	return errors.Join(err, s.close(), b.dropStack())
}

// post signs a member up and waits only for the response.
func (s *stack) post(ctx context.Context) error {
	_, err := s.members.SignUp(ctx, somebody(), "")
	if err == nil {
		s.accepted.Add(1)
	}
	return err
}

// counted fails unless there are as many members and sagas as signups that were answered with 201.
func (s *stack) counted(ctx context.Context) error {
	var members, sagas int64
	err := s.member.QueryRow(ctx,
		"-- name: countMembers\nSELECT (SELECT count(*) FROM member), (SELECT count(*) FROM signup_saga)").
		Scan(&members, &sagas)
	if n := s.accepted.Load(); err == nil && (members != n || sagas != n) {
		err = fmt.Errorf("of %d accepted signups there are %d members and %d sagas", n, members, sagas)
	}
	return err
}
