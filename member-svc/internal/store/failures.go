package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Failures is one kind of failure: the sagas that need attention with errors of one fingerprint.
type Failures struct {
	Fingerprint  string    `json:"fingerprint"`
	Count        int       `json:"count"`
	FirstSeen    time.Time `json:"first_seen"` // of those that failed and still need attention
	LastSeen     time.Time `json:"last_seen"`
	RetriedAgain int       `json:"retried_again"` // that failed again after an operator's retry
	Sample       Sample    `json:"sample" db:"-"`
	Groups       int       `json:"-"` // in all
	Total        int       `json:"-"` // of all groups' counts

	SagaID, Class, Message string `json:"-"`
}

// Sample is the newest signup among failures of one kind.
type Sample struct {
	SagaID  string `json:"saga_id"`
	Class   string `json:"class"`
	Message string `json:"message"`
}

// Failures returns the kinds of failures with the most sagas, limit of them. It counts
// all failures, in the narrow rows that a trigger keeps of them, and looks one saga of
// each kind up.
func (s *Store) Failures(ctx context.Context, limit int) ([]Failures, error) {
	rows, err := s.pool.Query(ctx, `-- name: groupFailures
WITH kind AS MATERIALIZED (
    SELECT error_fingerprint AS fingerprint, count(*) AS count,
           `+sane("min(updated_at)")+" AS first_seen, "+sane("max(updated_at)")+` AS last_seen,
           count(*) FILTER (WHERE retried) AS retried_again, count(*) OVER () AS groups, sum(count(*)) OVER ()::int AS total
    FROM saga_failure GROUP BY error_fingerprint ORDER BY count DESC, fingerprint LIMIT $1
)
SELECT kind.*, s.id::text AS saga_id, s.error_class AS class, s.error_message AS message
FROM kind CROSS JOIN LATERAL (SELECT * FROM signup_saga WHERE error_class <> '' AND error_fingerprint = fingerprint
                              ORDER BY created_at DESC, id DESC LIMIT 1) s
ORDER BY count DESC, fingerprint`, limit)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Failures])
	for i, f := range found {
		found[i].Sample = Sample{f.SagaID, f.Class, f.Message}
	}
	return found, err
}
