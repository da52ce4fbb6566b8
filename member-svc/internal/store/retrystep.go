package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
)

const (
	retryPause    = time.Second // between two steps
	unsettledSecs = 10          // so many seconds' worth of releases may be unanswered
	dropBatch     = 5000        // items deleted at a time
)

// StepRetry takes one step of one group retry that is due: it counts the outcomes of released sagas, decides
// whether to go on, and releases the next few. It reports whether it found one; if so, others may be due.
//
// A step is one transaction that locks the retry's row; other replicas skip the row. If a process dies during a
// step, nothing has happened; if it is suspended, Postgres ends its transaction. Each release also locks the
// saga and checks that its generation is still the frozen one, so no saga is retried twice, whatever else
// happens to it meanwhile.
//
// If a step fails, the next one is postponed, longer each time, so that one group retry cannot hold up another.
func (s *Store) StepRetry(ctx context.Context) (found bool, err error) {
	released, id := 0, ""
	err = s.tx.Do(ctx, nil, func(tx pgx.Tx) error {
		found, released = false, 0
		rows, _ := tx.Query(ctx, "-- name: claimRetry\n"+selectRetry+
			" WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED")
		r, err := one[groupRetry](rows)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found, released, id = true, r.Released, r.ID
		if err := r.countOutcomes(ctx, tx); err != nil {
			return err
		}
		if n := r.next(); n > 0 {
			if err := s.release(ctx, tx, &r, n); err != nil {
				return err
			}
		}
		released = r.Released - released
		done, err := r.tidy(ctx, tx)
		if err != nil {
			return err
		}
		return r.save(ctx, tx, done)
	})
	if err == nil && released > 0 {
		s.wake()
	}
	if err != nil && found && ctx.Err() == nil {
		err = errors.Join(err, s.postponeRetry(ctx, id))
	}
	return found && err == nil, err
}

// postponeRetry postpones the next step of a group retry by up to a minute.
func (s *Store) postponeRetry(ctx context.Context, id string) error {
	_, err := s.pool.Exec(ctx, `-- name: postponeRetry
UPDATE group_retry SET failures = failures + 1,
       due_at = now() + make_interval(secs => least(60, 2 ^ least(failures, 6)))
WHERE id = $1 AND due_at <= now()`, id)
	return err
}

// next decides whether the retry goes on, and returns how many sagas to release.
func (r *groupRetry) next() int {
	switch {
	case r.State != "running":
		return 0
	case r.Remaining == 0:
		if r.Unsettled == 0 {
			r.State = "finished"
		}
		return 0
	case r.Failed >= r.StopAfter:
		r.State, r.StoppedBecause = "stopped", StoppedByFailures
		return 0
	case r.Unsettled >= r.Rate*unsettledSecs:
		r.State, r.StoppedBecause = "stopped", StoppedByUnsettled
		return 0
	}
	r.Steps++
	return min(r.Rate, 1<<min(r.Steps-1, 30), r.Remaining)
}

// countOutcomes counts the released sagas that have an outcome and deletes their items. LIMIT makes every plan find
// sagas by their key.
func (r *groupRetry) countOutcomes(ctx context.Context, tx pgx.Tx) error {
	var succeeded, failed, skipped int
	err := tx.QueryRow(ctx, `-- name: settleRetry
WITH seen AS MATERIALIZED (
    SELECT i.saga_id, CASE WHEN s.generation <> i.generation THEN 'skipped' WHEN s.state IN ('ready', 'withdrawn')
        THEN 'succeeded' ELSE 'failed' END AS outcome
    FROM group_retry_item i CROSS JOIN LATERAL (SELECT state, generation FROM signup_saga WHERE id = i.saga_id
        LIMIT 1) s
    WHERE i.retry_id = $1 AND i.released AND NOT (s.generation = i.generation
        AND s.state IN ('provisioning', 'withdrawing'))
), gone AS (
    DELETE FROM group_retry_item i USING seen WHERE i.retry_id = $1 AND i.released AND i.saga_id = seen.saga_id
        RETURNING outcome
)
SELECT count(*) FILTER (WHERE outcome = 'succeeded'), count(*) FILTER (WHERE outcome = 'failed'),
    count(*) FILTER (WHERE outcome = 'skipped') FROM gone`, r.ID).
		Scan(&succeeded, &failed, &skipped)
	r.Succeeded, r.Failed, r.Skipped, r.Unsettled = r.Succeeded+succeeded, r.Failed+failed, r.Skipped+skipped,
		r.Unsettled-succeeded-failed-skipped
	return err
}

// release retries the next n sagas, if their generation is still the frozen one. The others, and those that the
// database rejects, count as skipped.
func (s *Store) release(ctx context.Context, tx pgx.Tx, r *groupRetry, n int) error {
	rows, _ := tx.Query(ctx,
		"-- name: nextRetries\nSELECT saga_id::text, generation FROM group_retry_item WHERE retry_id = $1 AND NOT "+
			"released ORDER BY saga_id LIMIT $2", r.ID, n)
	type item struct {
		SagaID     string
		Generation int64
	}
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[item])
	if err != nil {
		return err
	}
	ids := column(items, func(it item) string { return it.SagaID })
	rows, _ = tx.Query(ctx, "-- name: lockSagas\n"+selectRecord+
		" WHERE s.id = ANY ($1::text[]::uuid[]) ORDER BY s.id FOR NO KEY UPDATE OF s", ids)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Record])
	if err != nil {
		return err
	}
	records := byID(found)
	var changes []Change
	for _, it := range items {
		if records[it.SagaID].Generation == it.Generation {
			changes = append(changes, Change{SagaID: it.SagaID, Event: saga.Event{Kind: saga.Retried, Actor: r.Actor,
				Reason: r.Reason}, Subject: retrySubject(r.ID), TraceParent: r.TraceParent})
		}
	}
	results, _, err := s.applyEach(ctx, tx, records, changes)
	if err != nil {
		return err
	}
	var done []string
	var generations []int64
	for _, result := range results {
		if result.Outcome == saga.Advanced {
			done, generations = append(done, result.ID), append(generations, result.Generation)
		}
	}
	r.Released, r.Unsettled = r.Released+len(done), r.Unsettled+len(done)
	r.Skipped, r.Remaining = r.Skipped+len(items)-len(done), r.Remaining-len(items)
	_, err = tx.Exec(ctx, `-- name: markReleased
WITH turn AS (DELETE FROM group_retry_item WHERE retry_id = $1 AND NOT released AND saga_id = ANY ($2::text[]::uuid[]))
INSERT INTO group_retry_item (retry_id, released, saga_id, generation)
SELECT $1, true, id, generation FROM unnest($3::text[]::uuid[], $4::bigint[])
    AS done (id, generation)`, r.ID, ids, done, generations)
	return err
}

// tidy deletes items that will not be released any more, in batches, and reports whether nothing is left to do.
func (r *groupRetry) tidy(ctx context.Context, tx pgx.Tx) (done bool, err error) {
	if r.State == "running" {
		return false, nil
	}
	tag, err := tx.Exec(ctx, `-- name: dropRetries
DELETE FROM group_retry_item WHERE retry_id = $1 AND NOT released AND saga_id IN (
    SELECT saga_id FROM group_retry_item WHERE retry_id = $1 AND NOT released ORDER BY saga_id
        LIMIT $2)`, r.ID, dropBatch)
	return r.Unsettled == 0 && tag.RowsAffected() < dropBatch, err
}

func (r *groupRetry) save(ctx context.Context, tx pgx.Tx, done bool) error {
	_, err := tx.Exec(ctx, `-- name: saveRetry
UPDATE group_retry SET failures = 0, state = $2, stopped_because = $3, steps = $4, released = $5,
       succeeded = $6, failed = $7, skipped = $8, unsettled = $9, remaining = $10,
       finished_at = CASE WHEN $2 <> 'running' THEN coalesce(finished_at, now()) END,
       due_at = CASE WHEN NOT $11 THEN now() + make_interval(secs => $12) END WHERE id = $1`,
		r.ID, r.State, r.StoppedBecause, r.Steps, r.Released, r.Succeeded, r.Failed, r.Skipped, r.Unsettled,
		r.Remaining, done, retryPause.Seconds())
	return err
}
