package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/service"
)

// Bounds of retries of groups.
const (
	MaxMatched = 100_000 // sagas of one
	MaxRunning = 10      // at a time
)

// Errors of retries of groups.
var (
	ErrTooMany    = fmt.Errorf("the filter selects more than %d sagas", MaxMatched)
	ErrBusy       = fmt.Errorf("%d retries of groups are running", MaxRunning)
	ErrNotRunning = errors.New("the retry has ended")
)

// Why a retry of a group stops itself.
const (
	StoppedByFailures  = "failures"  // as many failed again as it may
	StoppedByUnsettled = "unsettled" // what it released in ten seconds waits for an answer
)

// GroupRetry retries a set of sagas that was frozen when it began, a few at first, then
// more and more of them per second. Matched = Remaining + Unsettled + Succeeded +
// Failed + Skipped.
type GroupRetry struct {
	ID             string            `json:"id"`
	Actor          string            `json:"actor"`
	Reason         string            `json:"reason"`
	Filter         map[string]string `json:"filter"` // as it was asked for
	Rate           int               `json:"rate_per_second"`
	StopAfter      int               `json:"stop_after_failures"`
	State          string            `json:"state"` // running, finished, stopped (by itself) or cancelled
	StoppedBecause string            `json:"stopped_because"`
	Steps          int               `json:"-"`
	Matched        int               `json:"matched"`
	Released       int               `json:"released"`
	Succeeded      int               `json:"succeeded"`
	Failed         int               `json:"failed"`
	Skipped        int               `json:"skipped"`   // somebody or something else changed them before or after their turn
	Unsettled      int               `json:"unsettled"` // released, and without an outcome yet
	Remaining      int               `json:"remaining"` // not released
	CreatedAt      time.Time         `json:"created_at"`
	FinishedAt     *time.Time        `json:"finished_at"` // when it ceased to release
	TraceParent    string            `json:"-"`           // of the request that began it
}

const selectRetry = `SELECT id::text, actor, reason, filter, rate, stop_after, state, stopped_because, steps,
       matched, released, succeeded, failed, skipped, unsettled, remaining, created_at, finished_at, traceparent FROM group_retry`

// retryable returns the FROM and WHERE of what a retry with this filter is about.
func (s *Store) retryable(q *query, f Filter) string {
	delayed := f.Delayed != nil && *f.Delayed
	f.Delayed = nil // whoever needs attention waits for no answer
	where := append(s.ranges(q, f), s.conditions(q, f)...)
	if delayed {
		where = append(where, "false")
	}
	return " FROM saga_failure s WHERE s.error_class <> '' AND s.state IN ('needs_attention', 'withdraw_needs_attention') AND " + strings.Join(where, " AND ")
}

// CountRetryable counts what a retry of a group would be about; [ErrTooMany].
func (s *Store) CountRetryable(ctx context.Context, f Filter) (n int, err error) {
	var q query
	err = s.pool.QueryRow(ctx, fmt.Sprintf("-- name: countRetryable\nSELECT count(*) FROM (SELECT %s LIMIT %d) s", s.retryable(&q, f), s.maxMatched+1), q.args...).Scan(&n)
	if err == nil && n > s.maxMatched {
		err = ErrTooMany
	}
	return n, err
}

// BeginRetry freezes the sagas that need attention and that the filter selects, with
// their generations, and begins to retry them; Matched and the like are filled in, and
// ID if it is empty. If a retry of that ID has begun before, that one is returned.
// [ErrTooMany], [ErrBusy].
func (s *Store) BeginRetry(ctx context.Context, r GroupRetry, f Filter) (GroupRetry, error) {
	if r.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return r, err
		}
		r.ID = id.String()
	}
	id := r.ID
	err := s.tx.Do(ctx, nil, func(tx pgx.Tx) error {
		var running int
		if err := tx.QueryRow(ctx, "-- name: countRetries\nSELECT count(*) FROM group_retry WHERE state = 'running' AND due_at IS NOT NULL").Scan(&running); err != nil {
			return err
		}
		if running >= MaxRunning {
			return ErrBusy
		}
		var q query
		tag, err := tx.Exec(ctx, fmt.Sprintf("-- name: freezeRetry\nINSERT INTO group_retry_item (retry_id, saga_id, generation) SELECT %s::uuid, s.id, s.generation%s LIMIT %d",
			q.arg(r.ID), s.retryable(&q, f), s.maxMatched+1), q.args...)
		if err != nil {
			return err
		}
		if r.Matched = int(tag.RowsAffected()); r.Matched > s.maxMatched {
			return ErrTooMany
		}
		b := new(pgx.Batch)
		b.Queue(`-- name: insertRetry
INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, matched, remaining, traceparent) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)`,
			r.ID, r.Actor, r.Reason, r.Filter, r.Rate, r.StopAfter, r.Matched, service.TraceParent(ctx))
		audit(b, Act{Actor: r.Actor, Action: "retry_group", Subject: r.subject(), Reason: r.Reason}, map[string]any{},
			map[string]any{"filter": r.Filter, "matched": r.Matched, "rate_per_second": r.Rate, "stop_after_failures": r.StopAfter})
		b.Queue("-- name: newRetry\n"+selectRetry+" WHERE id = $1", r.ID).Query(func(rows pgx.Rows) (err error) {
			r, err = one[GroupRetry](rows)
			return err
		})
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil { // of a call that came before, or at the same time, or only of the commit's answer
		if begun, missing := s.Retry(ctx, id); missing == nil {
			return begun, nil
		}
	}
	return r, err
}

// subject is how the audit names it.
func (r GroupRetry) subject() string { return "retry " + r.ID }

// Retry returns a retry of a group, or [ErrNotFound].
func (s *Store) Retry(ctx context.Context, id string) (GroupRetry, error) {
	if _, err := uuid.FromString(id); err != nil {
		return GroupRetry{}, ErrNotFound
	}
	rows, err := s.pool.Query(ctx, "-- name: getRetry\n"+selectRetry+" WHERE id = $1", id)
	if err != nil {
		return GroupRetry{}, err
	}
	return one[GroupRetry](rows)
}

// Retries returns a page of those with smaller ids, newest first, and the last one's id
// if there are more.
func (s *Store) Retries(ctx context.Context, before string, limit int) ([]GroupRetry, string, error) {
	rows, err := s.pool.Query(ctx, fmt.Sprintf("-- name: listRetries\n%s WHERE id < $1 ORDER BY group_retry.id DESC LIMIT %d", selectRetry, limit+1), before)
	if err != nil {
		return nil, "", err
	}
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[GroupRetry])
	if err != nil || len(page) <= limit {
		return page, "", err
	}
	return page[:limit], page[limit-1].ID, nil
}

// CancelRetry keeps a retry of a group from releasing more. To cancel one again does
// nothing; one that has ended otherwise is [ErrNotRunning].
func (s *Store) CancelRetry(ctx context.Context, id, actor, reason string) (r GroupRetry, err error) {
	if _, err := uuid.FromString(id); err != nil {
		return r, ErrNotFound
	}
	err = s.tx.Do(ctx, nil, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "-- name: lockRetry\n"+selectRetry+" WHERE id = $1 FOR UPDATE", id)
		if err != nil {
			return err
		}
		if r, err = one[GroupRetry](rows); err != nil || r.State == "cancelled" {
			return err
		}
		if r.State != "running" {
			return ErrNotRunning
		}
		r.State = "cancelled"
		b := new(pgx.Batch)
		b.Queue("-- name: cancelRetry\nUPDATE group_retry SET state = $2, finished_at = now() WHERE id = $1 RETURNING finished_at", id, r.State).
			QueryRow(func(row pgx.Row) error { return row.Scan(&r.FinishedAt) })
		audit(b, Act{Actor: actor, Action: "cancel_retry", Subject: r.subject(), Reason: reason},
			map[string]any{"state": "running", "remaining": r.Remaining}, map[string]any{"state": r.State})
		return tx.SendBatch(ctx, b).Close()
	})
	return r, err
}
