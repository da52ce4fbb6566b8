// Package stuck notifies operators when a signup needs attention or takes too long. A notice is a signup.stuck
// event on the non-essential lane, written once per saga, generation and reason. Any consumer of that lane may
// read it. A [Webhook] is one such consumer: it posts each notice, signed, to one URL.
//
//	saga needs attention ──► Notices ──► outbox ──► stream ──► Webhook.Queue ──► webhook ──► Webhook.Work ──► POST
//	      (state)           (one tx)                           (durable consumer) (table)     (own loop)
//
// Nothing here can delay a signup: notices read committed rows, and a receiver that hangs only holds up the
// webhook loop. A notice is delivered at least once within its attempts and its age, always with the same id.
package stuck

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

const (
	noticeBatch = 1000 // notices per pass; a long outage is reported at this pace
)

// Notices returns a step for a loop that writes notices of stuck sagas: those that need attention, and those
// unanswered for longer than after. It calls wake after a commit. Many replicas may run it.
func Notices(pool *pgxpool.Pool, after time.Duration, wake func()) func(context.Context) (more bool, err error) {
	tx := service.Transactor{Pool: pool}
	return func(ctx context.Context) (bool, error) {
		// It never asks for more at once: the pace of the loop bounds the cost of notices.
		return false, tx.Do(ctx, wake, func(tx pgx.Tx) error {
			found, err := record(ctx, tx, after)
			if err != nil {
				return fmt.Errorf("record stuck sagas: %w", err)
			}
			events := make([]outbox.Event, 0, len(found))
			for _, s := range found {
				e, err := event(s)
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
}

// record adds a row to the timeline of each stuck saga that has none for its generation and reason, and returns
// these sagas. The row prevents a second notice, here and in other replicas.
func record(ctx context.Context, tx pgx.Tx, after time.Duration) ([]contract.Stuck, error) {
	rows, err := tx.Query(ctx, `-- name: recordStuck
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
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[contract.Stuck])
}

func event(s contract.Stuck) (outbox.Event, error) {
	s.Since, s.Generation = s.Since.UTC(), min(s.Generation, contract.MaxGeneration)
	return service.NewEvent(contract.Event{
		Type: contract.SignupStuck, Subject: s.MemberID, SagaID: s.SagaID, Generation: s.Generation,
	}, s)
}
