package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

// noticeBatch bounds the notices of one pass. A long outage is reported at this pace.
const noticeBatch = 1000

// NotifyStuck writes a notice, a signup.stuck event, of each saga that needs attention or has been unanswered for
// longer than after: once per saga, generation and reason. Many replicas may call it.
func (s *Store) NotifyStuck(ctx context.Context, after time.Duration) error {
	return s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		found, err := recordStuck(ctx, tx, after)
		if err != nil {
			return fmt.Errorf("record stuck sagas: %w", err)
		}
		events := make([]outbox.Event, 0, len(found))
		for _, one := range found {
			e, err := stuckEvent(one)
			switch {
			case errors.Is(err, contract.ErrMalformed): // a damaged row must not block the notices of others
			case err != nil:
				return err
			default:
				events = append(events, e)
			}
		}
		return outbox.Append(ctx, tx, events...)
	})
}

// recordStuck adds a row to the timeline of each stuck saga that has none for its generation and reason, and returns
// these sagas. The row prevents a second notice, here and in other replicas.
func recordStuck(ctx context.Context, tx pgx.Tx, after time.Duration) ([]contract.Stuck, error) {
	rows, _ := tx.Query(ctx, `-- name: recordStuck
WITH stuck AS MATERIALIZED (
    SELECT s.id, s.member_id, s.state, s.version, s.generation, r.reason,
           -- As the contract has it, also of damaged rows.
           least(greatest(CASE r.reason WHEN 'delayed' THEN s.opened_at ELSE s.updated_at END,
                          timestamptz '2000-01-02 00:00Z'), now()) AS since,
           'stuck:' || s.generation || ':' || r.reason AS message_id
    FROM signup_saga s
    CROSS JOIN LATERAL (SELECT CASE WHEN s.state IN ('provisioning', 'withdrawing') THEN 'delayed'
                                    WHEN s.error_class ~ '^[a-z0-9][a-z0-9_.-]{0,99}$' THEN s.error_class
                                    ELSE 'damaged' END AS reason) r
    WHERE s.state NOT IN ('ready', 'withdrawn')
      AND (r.reason <> 'delayed' OR s.opened_at < now() - make_interval(secs => $1))
      AND NOT EXISTS (SELECT FROM saga_event e WHERE e.saga_id = s.id
          AND e.message_id = 'stuck:' || s.generation || ':' || r.reason)
    LIMIT $2 FOR NO KEY UPDATE OF s SKIP LOCKED
), recorded AS (
    INSERT INTO saga_event (saga_id, kind, state, version, generation, detail, message_id)
    SELECT id, 'stuck', state, version, generation, reason, message_id FROM stuck
    ON CONFLICT (saga_id, message_id) DO NOTHING RETURNING saga_id
)
SELECT member_id::text, id::text AS saga_id, generation, state, reason, since FROM stuck JOIN recorded ON saga_id = id`,
		after.Seconds(), noticeBatch)
	return pgx.CollectRows(rows, pgx.RowToStructByName[contract.Stuck])
}

func stuckEvent(one contract.Stuck) (outbox.Event, error) {
	one.Since, one.Generation = one.Since.UTC(), min(one.Generation, contract.MaxGeneration)
	return service.NewEvent(contract.Event{
		Type: contract.SignupStuck, Subject: one.MemberID, SagaID: one.SagaID, Generation: one.Generation,
	}, one)
}
