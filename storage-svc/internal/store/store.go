// Package store is the Storage service's database: the desired and the actual state of each member's storage,
// dead letters, and the outbox events of every change.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the migrations of the database, in order: the outbox, then the tables of this service.
var Migrations = service.MigrationSets(migrations, "storage_version")

// Store is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
	tx   service.Transactor
	wake func() // called after a commit that may have appended events
}

// New returns a Store. wake, which may be nil, is called after commits with
// events; it must not block.
func New(pool *pgxpool.Pool, wake func()) *Store {
	return &Store{pool: pool, tx: service.Transactor{Pool: pool}, wake: wake}
}

// ErrNotFound means that there is no such storage or dead letter.
var ErrNotFound = errors.New("not found")

const columns = `member_id::text, saga_id::text, generation, desired, status, quota_bytes, attempts, outage_attempts,
	next_attempt_at, lease_token::text, lease_until, last_error_class, last_error, traceparent,
    version, created_at, updated_at`

// Get returns one member's storage; the id must be a UUID.
func (s *Store) Get(ctx context.Context, memberID string) (provision.Storage, error) {
	rows, _ := s.pool.Query(ctx, "-- name: getStorage\nSELECT "+columns+" FROM storage WHERE member_id = $1", memberID)
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[provision.Storage])
	if errors.Is(err, pgx.ErrNoRows) {
		return found, ErrNotFound
	}
	if err != nil {
		return found, fmt.Errorf("get storage: %w", err)
	}
	return found, nil
}

// Finish implements provision.Queue. A stale result releases its lease if that is still its own, so that a
// newer command does not have to wait until it runs out.
func (s *Store) Finish(ctx context.Context, results []provision.Result) (stale int, err error) {
	err = s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		written, err := finish(ctx, tx, results)
		if err != nil {
			return err
		}
		stale = len(results) - len(written)
		var replies []provision.Reply
		for _, r := range results {
			next, ok := written[leaseOf(r)]
			if !ok || r.Reply == nil {
				continue
			}
			if r.Reply.Type == contract.StorageAttemptFailed {
				r.Reply.Data.NextAttemptAt = next
			}
			replies = append(replies, *r.Reply)
		}
		return appendReplies(ctx, tx, replies)
	})
	if err != nil {
		return 0, fmt.Errorf("finish attempts: %w", err)
	}
	return stale, nil
}

// lease identifies a result. A batch may hold two results for one member: one from an expired lease and one
// from the next attempt.
type lease struct{ memberID, token string }

func leaseOf(r provision.Result) lease {
	l := lease{memberID: r.Was.MemberID}
	if r.Was.LeaseToken != nil {
		l.token = *r.Was.LeaseToken
	}
	return l
}

// finish updates the rows that are still as they were claimed, and returns the time of the next attempt by
// lease. It first locks the rows in the order of their ids, as Apply does, so that the two cannot deadlock. The
// conditions with ANY force every plan to look rows up by key; with the join alone, Postgres may scan the table
// until it has been analysed.
func finish(ctx context.Context, tx pgx.Tx, results []provision.Result) (map[lease]*time.Time, error) {
	var r resultColumns
	for _, result := range results {
		r.add(result)
	}
	rows, _ := tx.Query(ctx, `-- name: finishAttempts
WITH result AS MATERIALIZED (
	SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::int[], $6::int[], $7::interval[],
	    $8::text[], $9::text[])
		AS r (id, was, token, next_status, next_attempts, next_outage_attempts, delay, error_class, error)
), locked AS MATERIALIZED (
	SELECT member_id AS id FROM storage WHERE member_id = ANY($1) ORDER BY member_id FOR UPDATE
), written AS (
	UPDATE storage SET status = next_status, attempts = next_attempts, outage_attempts = next_outage_attempts,
		next_attempt_at = CASE next_status WHEN 'pending' THEN now() + delay END,
		lease_token = NULL, lease_until = NULL, last_error_class = error_class, last_error = error,
		version = version + 1, updated_at = now()
	FROM result JOIN locked USING (id)
	WHERE member_id = id AND member_id = ANY($1) AND version = was AND lease_token = token
	RETURNING member_id, token, next_attempt_at
)
SELECT member_id::text, token::text, next_attempt_at FROM written`,
		r.id, r.was, r.token, r.status, r.attempts, r.outageAttempts, r.delay, r.errorClass, r.error)
	written := make(map[lease]*time.Time, len(results))
	var l lease
	var next *time.Time
	if _, err := pgx.ForEachRow(rows, []any{&l.memberID, &l.token, &next},
		func() error { written[l] = next; next = nil; return nil }); err != nil {
		return nil, err
	}
	if len(written) == len(results) {
		return written, nil
	}
	_, err := tx.Exec(ctx, `-- name: releaseStaleLeases
UPDATE storage SET lease_token = NULL, lease_until = NULL
FROM unnest($1::uuid[], $2::uuid[]) AS r (id, token)
WHERE member_id = id AND member_id = ANY($1) AND lease_token = token`, r.id, r.token)
	return written, err
}

// resultColumns holds results column by column, for unnest.
type resultColumns struct {
	id, status               []string
	was                      []int64
	token, errorClass, error []*string
	attempts, outageAttempts []int
	delay                    []time.Duration
}

func (c *resultColumns) add(r provision.Result) {
	c.id, c.was, c.token = append(c.id, r.Was.MemberID), append(c.was, r.Was.Version), append(c.token, r.Was.LeaseToken)
	c.status, c.delay = append(c.status, string(r.Next.Status)), append(c.delay, r.Delay)
	c.attempts, c.outageAttempts = append(c.attempts, r.Next.Attempts), append(c.outageAttempts, r.Next.OutageAttempts)
	c.errorClass, c.error = append(c.errorClass, r.Next.LastErrorClass), append(c.error, r.Next.LastError)
}

// appendReplies appends replies to the outbox as events, on the lanes that the contract assigns. Each event has
// a new id: a repeated reply is a new event.
func appendReplies(ctx context.Context, tx pgx.Tx, replies []provision.Reply) error {
	events := make([]outbox.Event, len(replies))
	for i, r := range replies {
		event, err := service.NewEvent(contract.Event{
			Type: r.Type, Subject: r.Data.MemberID,
			SagaID: r.Data.SagaID, Generation: r.Data.Generation, TraceParent: r.TraceParent,
		}, r.Data)
		if err != nil {
			return err
		}
		events[i] = event
	}
	return outbox.Append(ctx, tx, events...)
}

// Defective implements provision.Inbox.
func (s *Store) Defective(err error) bool { return service.Defective(err) }

// Fault returns how the provider is made to misbehave.
func (s *Store) Fault(ctx context.Context) (provider.Fault, error) {
	rows, _ := s.pool.Query(ctx, "-- name: getFault\nSELECT mode, probability, latency_ms FROM provider_fault")
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[provider.Fault])
	if err != nil {
		return f, fmt.Errorf("get fault: %w", err)
	}
	return f, nil
}

// SetFault changes how the provider is made to misbehave, for all replicas.
func (s *Store) SetFault(ctx context.Context, f provider.Fault) error {
	_, err := s.pool.Exec(ctx,
		"-- name: setFault\nUPDATE provider_fault SET mode = $1, probability = $2, latency_ms = $3", f.Mode,
		f.Probability, f.LatencyMS)
	if err != nil {
		return fmt.Errorf("set fault: %w", err)
	}
	return nil
}

// maxCounted bounds how many rows [Store.Stats] counts: a gauge must stay cheap on the worst day.
const maxCounted = 100_000

// Stats contains counts for metrics, of up to 100,000 each.
type Stats struct {
	Pending int64 `db:"pending"`
	// longest time in seconds since a pending storage was commanded or last tried, among the 1,000 that are due
	// first
	Oldest      float64 `db:"oldest"`
	DeadLetters int64   `db:"dead_letters"`
}

// Stats reads the counts.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	rows, _ := s.pool.Query(ctx, `-- name: stats
SELECT (SELECT count(*) FROM (SELECT FROM storage WHERE status = 'pending' LIMIT $1) s) AS pending,
	(SELECT count(*) FROM (SELECT FROM dead_letter LIMIT $1) d) AS dead_letters,
	coalesce(extract(epoch FROM max(now() - updated_at)), 0)::float8 AS oldest
FROM (SELECT updated_at FROM storage WHERE status = 'pending' ORDER BY next_attempt_at LIMIT 1000) s`, maxCounted)
	st, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Stats])
	if err != nil {
		return st, fmt.Errorf("stats: %w", err)
	}
	return st, nil
}
