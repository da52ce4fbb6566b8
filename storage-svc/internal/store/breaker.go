package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const readBreaker = `-- name: readBreaker
SELECT version, state, failures, opened_at, closed_at, not_before, probe_token::text, permits, filled_at, taken,
	error_class, error, now() FROM provider_gate`

// execer is a pool or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Breaker implements provision.Queue.
func (s *Store) Breaker(ctx context.Context) (provision.Breaker, error) {
	rows, _ := s.pool.Query(ctx, readBreaker)
	b, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[provision.Breaker])
	if err != nil {
		return b, fmt.Errorf("read breaker: %w", err)
	}
	return b, nil
}

// SetBreaker implements provision.Queue. It appends an event if the provider became unavailable or available
// again, or if the reason for its unavailability changed. A probe causes no event.
func (s *Store) SetBreaker(ctx context.Context, was, next provision.Breaker) (written bool, err error) {
	known := (was.State == provision.BreakerClosed) == (next.State == provision.BreakerClosed)
	if known && alike(was.Reason(), next.Reason()) {
		return setBreaker(ctx, s.pool, was, next)
	}
	err = s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		if written, err = setBreaker(ctx, tx, was, next); err != nil || !written {
			return err
		}
		return appendChange(ctx, tx, next)
	})
	return written && err == nil, err
}

// alike reports whether two errors are of one kind, or both are nil.
func alike(a, b *contract.StorageError) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Fingerprint == b.Fingerprint
}

func appendChange(ctx context.Context, tx pgx.Tx, b provision.Breaker) error {
	change := contract.ProviderChange{
		State: string(b.State), Version: b.Version, ChangedAt: b.ClosedAt.UTC(), Error: b.Reason(),
	}
	if b.OpenedAt != nil {
		change.ChangedAt = b.OpenedAt.UTC()
	}
	event, err := service.NewEvent(contract.Event{Type: contract.StorageProviderChanged, Subject: "provider"}, change)
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, event)
}

func setBreaker(ctx context.Context, db execer, was, next provision.Breaker) (written bool, err error) {
	tag, err := db.Exec(ctx, `-- name: setBreaker
UPDATE provider_gate SET version = $3, state = $4, failures = $5, opened_at = $6, closed_at = $7, not_before = $8,
	probe_token = $9, error_class = $10, error = $11
WHERE version = $1 AND failures = $2`,
		was.Version, was.Failures, next.Version, next.State, next.Failures, next.OpenedAt, next.ClosedAt,
		next.NotBefore,
		next.ProbeToken, next.ErrorClass, next.LastError)
	if err != nil {
		return false, fmt.Errorf("set breaker: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Claim implements provision.Queue, in one round trip and by the database's clock. It skips storages that are
// leased, or locked at this moment. The commit does not wait for the disk: if a crash of the server loses a
// lease, that is like a lease that ran out early, which version and token make harmless.
func (s *Store) Claim(
	ctx context.Context, c provision.Claim,
) (due []provision.Storage, now provision.Breaker, err error) {
	err = service.Repeat(ctx, func() error {
		due, now, err = s.claim(ctx, c)
		return err
	})
	return due, now, err
}

func (s *Store) claim(
	ctx context.Context, c provision.Claim,
) (due []provision.Storage, now provision.Breaker, err error) {
	next := c.Was
	if c.Next != nil {
		next = *c.Next
	}
	b := new(pgx.Batch)
	b.Queue(`-- name: claimDue
WITH due AS MATERIALIZED (
	SELECT member_id AS id FROM storage
	WHERE status = 'pending' AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until <= now())
	ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED
), admitted AS (
	UPDATE provider_gate SET version = $7, state = $8, not_before = $9, probe_token = $10, permits = $11,
	    filled_at = $12, taken = $13
	WHERE $4 AND version = $5 AND taken = $6 AND EXISTS (SELECT FROM due) RETURNING 1
)
UPDATE storage SET lease_token = $2, lease_until = now() + $3
FROM due, set_config('synchronous_commit', 'off', true)
WHERE member_id = due.id AND CASE WHEN $4 THEN EXISTS (SELECT FROM admitted) ELSE EXISTS (SELECT FROM provider_gate
    WHERE version = $5) END
RETURNING `+columns,
		c.N, c.Token, c.Lease, c.Next != nil, c.Was.Version, c.Was.Taken,
		next.Version, next.State, next.NotBefore, next.ProbeToken, next.Permits, next.FilledAt, next.Taken).
		Query(func(rows pgx.Rows) (err error) {
			due, err = pgx.CollectRows(rows, pgx.RowToStructByName[provision.Storage])
			return err
		})
	b.Queue(readBreaker).Query(func(rows pgx.Rows) (err error) {
		now, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[provision.Breaker])
		return err
	})
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, now, fmt.Errorf("claim storages: %w", err)
	}
	return due, now, nil
}
