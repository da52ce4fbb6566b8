package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

// Limits of group retries.
const (
	MaxMatched = 100_000 // sagas in one group retry
	MaxRunning = 10      // group retries at a time
)

// Errors of group retries.
var (
	ErrTooMany    = fmt.Errorf("the filter selects more than %d sagas", MaxMatched)
	ErrBusy       = fmt.Errorf("%d group retries are running", MaxRunning)
	ErrNotRunning = errors.New("the retry has ended")
)

// Reasons why a group retry stops itself.
const (
	StoppedByFailures  = "failures"  // the allowed number of sagas has failed again
	StoppedByUnsettled = "unsettled" // ten seconds' worth of releases is unanswered
)

// groupRetry retries a set of sagas that was frozen when it began, few at first, then more and more per second.
type groupRetry struct {
	wire.GroupRetry
	Steps       int    // so far
	TraceParent string // of the request that started it
}

const selectRetry = `SELECT id::text, actor, reason, filter, rate, stop_after, state, stopped_because, steps,
       matched, released, succeeded, failed, skipped, unsettled, remaining, created_at, finished_at, traceparent
           FROM group_retry`

// retryable returns the FROM and WHERE clauses that select the sagas of a group retry with this filter.
func (s *Store) retryable(q *query, f Filter) string {
	delayed := f.Delayed != nil && *f.Delayed
	f.Delayed = nil // a saga that needs attention is never delayed
	where := append(s.ranges(q, f), s.conditions(q, f)...)
	if delayed {
		where = append(where, "false")
	}
	return " FROM saga_failure s WHERE s.error_class <> '' AND s.state IN ('needs_attention', " +
		"'withdraw_needs_attention') AND " + strings.Join(where, " AND ")
}

// CountRetryable counts the sagas that a group retry would cover; [ErrTooMany] above the limit.
func (s *Store) CountRetryable(ctx context.Context, f Filter) (n int, err error) {
	var q query
	err = s.pool.QueryRow(ctx, fmt.Sprintf("-- name: countRetryable\nSELECT count(*) FROM (SELECT %s LIMIT %d) s",
		s.retryable(&q, f), s.maxMatched+1), q.args...).Scan(&n)
	if err == nil && n > s.maxMatched {
		err = ErrTooMany
	}
	return n, err
}

// BeginRetry freezes the sagas that the filter selects and that need attention, with their generations, and
// starts to retry them. If a group retry with ask.ID exists, BeginRetry returns that one. Errors: [ErrTooMany],
// [ErrBusy].
func (s *Store) BeginRetry(
	ctx context.Context, actor string, ask wire.NewGroupRetry, f Filter,
) (wire.GroupRetry, error) {
	if ask.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return wire.GroupRetry{}, err
		}
		ask.ID = id.String()
	}
	var begun groupRetry
	err := s.tx.Do(ctx, nil, func(tx pgx.Tx) error {
		var running int
		if err := tx.QueryRow(ctx,
			"-- name: countRetries\nSELECT count(*) FROM group_retry WHERE state = 'running' AND due_at "+
				"IS NOT NULL").Scan(&running); err != nil {
			return err
		}
		if running >= MaxRunning {
			return ErrBusy
		}
		var q query
		tag, err := tx.Exec(ctx,
			fmt.Sprintf(
				"-- name: freezeRetry\nINSERT INTO group_retry_item (retry_id, saga_id, generation) SELECT "+
					"%s::uuid, s.id, s.generation%s LIMIT %d",
				q.arg(ask.ID), s.retryable(&q, f), s.maxMatched+1), q.args...)
		if err != nil {
			return err
		}
		matched := int(tag.RowsAffected())
		if matched > s.maxMatched {
			return ErrTooMany
		}
		b := new(pgx.Batch)
		b.Queue(`-- name: insertRetry
INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, matched, remaining, traceparent)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)`,
			ask.ID, actor, ask.Reason, ask.Filter, ask.Rate, ask.StopAfter, matched, service.TraceParent(ctx))
		audit(b, Act{Actor: actor, Action: "retry_group", Subject: retrySubject(ask.ID), Reason: ask.Reason},
			map[string]any{},
			map[string]any{
				"filter": ask.Filter, "matched": matched, "rate_per_second": ask.Rate,
				"stop_after_failures": ask.StopAfter,
			})
		b.Queue("-- name: newRetry\n"+selectRetry+" WHERE id = $1", ask.ID).Query(func(rows pgx.Rows) (err error) {
			begun, err = one[groupRetry](rows)
			return err
		})
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil { // an earlier or concurrent call began it, or the commit's answer was lost
		if earlier, missing := s.Retry(ctx, ask.ID); missing == nil {
			return earlier, nil
		}
	}
	return begun.GroupRetry, err
}

// retrySubject returns how the audit names a group retry.
func retrySubject(id string) string { return "retry " + id }

// Retry returns a group retry, or [ErrNotFound].
func (s *Store) Retry(ctx context.Context, id string) (wire.GroupRetry, error) {
	if _, err := uuid.FromString(id); err != nil {
		return wire.GroupRetry{}, ErrNotFound
	}
	rows, _ := s.pool.Query(ctx, "-- name: getRetry\n"+selectRetry+" WHERE id = $1", id)
	r, err := one[groupRetry](rows)
	return r.GroupRetry, err
}

// Retries returns a page of group retries with ids smaller than before, newest first, and the last one's id if
// there are more.
func (s *Store) Retries(ctx context.Context, before string, limit int) ([]wire.GroupRetry, string, error) {
	rows, _ := s.pool.Query(ctx, fmt.Sprintf(
		"-- name: listRetries\n%s WHERE id < $1 ORDER BY group_retry.id DESC LIMIT %d", selectRetry, limit+1), before)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[groupRetry])
	page := column(found[:min(limit, len(found))], func(r groupRetry) wire.GroupRetry { return r.GroupRetry })
	if err != nil || len(found) <= limit {
		return page, "", err
	}
	return page, page[limit-1].ID, nil
}

// CancelRetry stops a group retry from releasing more sagas. Cancelling it twice does nothing; if it has ended
// otherwise, the error is [ErrNotRunning].
func (s *Store) CancelRetry(ctx context.Context, id, actor, reason string) (wire.GroupRetry, error) {
	var r groupRetry
	if _, err := uuid.FromString(id); err != nil {
		return r.GroupRetry, ErrNotFound
	}
	err := s.tx.Do(ctx, nil, func(tx pgx.Tx) (err error) {
		rows, _ := tx.Query(ctx, "-- name: lockRetry\n"+selectRetry+" WHERE id = $1 FOR UPDATE", id)
		if r, err = one[groupRetry](rows); err != nil || r.State == "cancelled" {
			return err
		}
		if r.State != "running" {
			return ErrNotRunning
		}
		r.State = "cancelled"
		b := new(pgx.Batch)
		b.Queue(
			"-- name: cancelRetry\nUPDATE group_retry SET state = $2, finished_at = now() WHERE id = $1 RETURNING "+
				"finished_at", id, r.State).
			QueryRow(func(row pgx.Row) error { return row.Scan(&r.FinishedAt) })
		audit(b, Act{Actor: actor, Action: "cancel_retry", Subject: retrySubject(id), Reason: reason},
			map[string]any{"state": "running", "remaining": r.Remaining}, map[string]any{"state": r.State})
		return tx.SendBatch(ctx, b).Close()
	})
	return r.GroupRetry, err
}
