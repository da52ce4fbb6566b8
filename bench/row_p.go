package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"
)

// rowP measures essential work while mails that cannot be sent are waiting.
func (b *bench) rowP(ctx context.Context) (err error) {
	b.section().method = fmt.Sprintf(
		"%d × %s at 100 signups/s, from the request until the client sees `ready`, in two stacks alternately, each "+
			"with a Postgres and a broker of its own. "+
			"In one of them the mail server is away and %s welcome mails wait, which came through outbox, broker "+
			"and consumer of the non-essential lane; "+
			"both databases are vacuumed and checkpointed before", b.reps, b.gentle, number(float64(b.mails)))
	var stacks []*stack
	for _, name := range []string{"free", "burdened"} {
		s, stop, startErr := b.startApart(ctx, name)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, stop()) }()
		stacks = append(stacks, s)
	}
	burdened := stacks[1]
	if err := b.stick(ctx, burdened); err != nil {
		return fmt.Errorf("stuck mails: %w", err)
	}
	for _, s := range stacks {
		if err := s.vacuum(ctx); err != nil {
			return err
		}
	}
	speeds := make([]speeds, len(stacks))
	for _, s := range stacks {
		if _, _, err := s.gently(ctx, b.gentle/3); err != nil { // connections, statements
			return err
		}
	}
	for rep := range b.reps {
		err := rotated(rep, len(stacks), func(i int) error {
			took, _, err := stacks[i].gently(ctx, b.gentle)
			speeds[i].add(took)
			return err
		})
		if err != nil {
			return err
		}
		b.note("   %d/%d: p99 %s ms without, %s ms with stuck mails", rep+1, b.reps, number(speeds[0].p99[rep]),
			number(speeds[1].p99[rep]))
	}
	for _, s := range stacks {
		if err := s.audit(ctx); err != nil {
			return err
		}
	}
	waiting, err := burdened.waitingMails(ctx)
	if err == nil && waiting != b.mails {
		err = fmt.Errorf("%d of %d mails wait at the end", waiting, b.mails)
	}
	b.report(line{what: "signup until ready, p50; limit: without the mails", unit: "ms", limit: speeds[0].p50,
		value: speeds[1].p50})
	b.report(line{what: "the same, p99", unit: "ms", limit: speeds[0].p99, value: speeds[1].p99, goal: atMost(1.1)})
	return err
}

// startApart starts a stack with its own Postgres server.
func (b *bench) startApart(ctx context.Context, name string) (*stack, func() error, error) {
	postgres, err := launch(ctx, "DATABASE_URL=", exec.Command(b.servers.devstack, "postgres"))
	if err != nil {
		return nil, nil, err
	}
	s, err := b.startStack(ctx, name, postgres.url)
	if err != nil {
		return nil, nil, errors.Join(err, postgres.close())
	}
	return s, func() error { return errors.Join(s.close(), postgres.close()) }, nil
}

// stick stops the mail server and queues a welcome mail for many members.
func (b *bench) stick(ctx context.Context, s *stack) error {
	if err := s.stop(ctx, "smtp"); err != nil {
		return err
	}
	began := time.Now()
	for first := 0; first < b.mails; first += 10_000 {
		_, err := s.member.Exec(ctx, `-- name: stickMails
WITH fresh AS (
	INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at)
	SELECT gen_random_uuid(), 'stuck-' || i, 'stuck-' || i, 'stuck-' || i || '@example.org', 'free', 'x', now()
	    FROM generate_series($1::int, $2::int) i
	RETURNING id
)
INSERT INTO outbox_event_nonessential (event_id, key, type, headers, payload)
SELECT gen_random_uuid(), id::text, 'member.signed-up', '{}', convert_to(json_build_object('member_id', id, 'saga_id',
    id)::text, 'utf8') FROM fresh`,
			first, min(first+10_000, b.mails)-1)
		if err != nil {
			return err
		}
	}
	defer b.watch(func() string {
		n, err := s.arrivedMails(ctx)
		return fmt.Sprintf("%d mails stuck after %s (%v)", n, time.Since(began).Round(time.Second), err)
	})()
	if err := progress(ctx, b.mails, s.arrivedMails); err != nil {
		return err
	}
	b.note("   %s mails are stuck after %s", number(float64(b.mails)), time.Since(began).Round(time.Second))
	return nil
}

// vacuum does the vacuum and the checkpoint that the server would run at some time after many writes.
func (s *stack) vacuum(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.database)
	if err != nil {
		return err
	}
	for _, sql := range []string{"-- name: vacuum\nVACUUM (ANALYZE)", checkpointSQL} {
		if _, execErr := conn.Exec(ctx, sql); execErr != nil {
			err = errors.Join(err, execErr)
		}
	}
	return errors.Join(err, conn.Close(ctx))
}

// arrivedMails counts mails cheaply; the count lags a little.
func (s *stack) arrivedMails(ctx context.Context) (n int, err error) {
	err = s.member.QueryRow(ctx,
		"-- name: arrivedMails\nSELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'mail'").Scan(&n)
	return n, err
}

// waitingMails counts the queued mails exactly.
func (s *stack) waitingMails(ctx context.Context) (n int, err error) {
	err = s.member.QueryRow(ctx, "-- name: waitingMails\nSELECT count(*) FROM mail WHERE state = 'queued'").Scan(&n)
	return n, err
}
