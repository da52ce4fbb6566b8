package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// failureRow is a group, its newest saga, and totals that are the same in all rows.
type failureRow struct {
	wire.FailureGroup
	wire.FailureSample     // the group's newest saga
	Groups             int // number of all groups
	Total              int // sum of all groups' counts
}

// Failures returns the limit most frequent kinds of failures. It counts all failures in the narrow table that a
// trigger maintains, and reads one saga of each kind.
func (s *Store) Failures(ctx context.Context, limit int) (wire.Failures, error) {
	rows, _ := s.pool.Query(ctx, `-- name: groupFailures
WITH kind AS MATERIALIZED (
    SELECT error_fingerprint AS fingerprint, count(*) AS count,
           `+sane("min(updated_at)")+" AS first_seen, "+sane("max(updated_at)")+` AS last_seen,
           count(*) FILTER (WHERE retried) AS retried_again, count(*) OVER () AS groups, sum(count(*)) OVER ()::int
               AS total
    FROM saga_failure GROUP BY error_fingerprint ORDER BY count DESC, fingerprint LIMIT $1
)
SELECT kind.*, s.id::text AS saga_id, s.error_class AS class, s.error_message AS message
FROM kind CROSS JOIN LATERAL (SELECT * FROM signup_saga WHERE error_class <> '' AND error_fingerprint = fingerprint
                              ORDER BY created_at DESC, id DESC LIMIT 1) s
ORDER BY count DESC, fingerprint`, limit)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[failureRow])
	all := wire.Failures{Items: make([]wire.FailureGroup, len(found))}
	for i, f := range found {
		f.Sample = f.FailureSample
		all.Items[i], all.Groups, all.Failures = f.FailureGroup, f.Groups, f.Total
	}
	return all, err
}
