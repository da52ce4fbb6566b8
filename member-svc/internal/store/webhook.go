package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Notice is an event on its way to the webhook's receiver.
type Notice struct {
	EventID  string
	Body     string // the event in structured CloudEvents JSON
	Attempts int    // including the one that was claimed
}

// QueueNotices inserts one row for each event that is not older than maxAge, and returns how many are older. The three
// slices are the columns of the events. A finished row is kept as long as its event could be delivered again.
func (s *Store) QueueNotices(
	ctx context.Context, ids, bodies []string, times []time.Time, maxAge time.Duration,
) (expired int, err error) {
	err = s.pool.QueryRow(ctx, `-- name: queueWebhooks
WITH event AS MATERIALIZED (
    SELECT *, at < now() - make_interval(secs => $4) AS expired
        FROM unnest($1::text[]::uuid[], $2::text[], $3::timestamptz[]) AS e (id, body, at)
), queued AS (
    INSERT INTO webhook (event_id, body, created_at) SELECT DISTINCT ON (id) id, body, at FROM event WHERE NOT expired
    ON CONFLICT DO NOTHING
)
SELECT count(*) FILTER (WHERE expired) FROM event`, ids, bodies, times, maxAge.Seconds()).Scan(&expired)
	if err != nil {
		return 0, fmt.Errorf("queue webhooks: %w", err)
	}
	return expired, nil
}

// ForgetNotices deletes up to limit rows whose event is too old to be queued again. It returns how many of them were
// not sent.
func (s *Store) ForgetNotices(ctx context.Context, maxAge time.Duration, limit int) (expired int, err error) {
	err = s.pool.QueryRow(ctx, `-- name: forgetWebhooks
WITH gone AS (
    DELETE FROM webhook WHERE event_id IN (
        SELECT event_id FROM webhook WHERE created_at < now() - make_interval(secs => $1) LIMIT $2
            FOR UPDATE SKIP LOCKED)
    RETURNING state
)
SELECT count(*) FROM gone WHERE state = 'queued'`, maxAge.Seconds(), limit).Scan(&expired)
	if err != nil {
		return 0, fmt.Errorf("delete old webhooks: %w", err)
	}
	return expired, nil
}

// ClaimNotices claims up to limit notices that are due, for the time of the lease. It counts the attempt before it is
// made, so that a notice that crashes its sender is not tried for ever.
func (s *Store) ClaimNotices(ctx context.Context, lease time.Duration, limit int) ([]Notice, error) {
	rows, err := s.pool.Query(ctx, `-- name: claimWebhooks
UPDATE webhook SET next_attempt_at = now() + make_interval(secs => $1), attempts = attempts + 1
WHERE event_id IN (SELECT event_id FROM webhook WHERE state = 'queued' AND next_attempt_at <= now()
                   ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING event_id::text, body, attempts`, lease.Seconds(), limit)
	if err != nil {
		return nil, fmt.Errorf("claim webhooks: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Notice])
}

// FinishNotice stores the result of an attempt: the row's next state, the time to wait if it stays queued, and why it
// was not sent.
func (s *Store) FinishNotice(ctx context.Context, eventID, state string, wait time.Duration, reason string) error {
	_, err := s.pool.Exec(ctx, `-- name: finishWebhook
UPDATE webhook SET state = $2, next_attempt_at = now() + make_interval(secs => $3), error = $4 WHERE event_id = $1
    AND state = 'queued'`, eventID, state, wait.Seconds(), reason)
	if err != nil {
		return fmt.Errorf("finish webhook: %w", err)
	}
	return nil
}
