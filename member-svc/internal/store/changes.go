package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Seen is a signup as a client saw it last.
type Seen struct {
	SignupID string
	Version  int64
	Redrives int // a re-drive raises this, not the version; it may mean a delay
}

// Changed returns the signups that have changed since the client saw them.
func (s *Store) Changed(ctx context.Context, seen []Seen) ([]Record, error) {
	rows, _ := s.pool.Query(ctx, "-- name: changedSignups\n"+selectRecord+`
JOIN unnest($1::text[], $2::bigint[], $3::int[]) AS seen (signup_id, version, redrives) ON seen.signup_id = s.signup_id
WHERE (s.version, s.redrives) <> (seen.version, seen.redrives)`,
		column(seen, func(one Seen) string { return one.SignupID }),
		column(seen, func(one Seen) int64 { return one.Version }),
		column(seen, func(one Seen) int { return one.Redrives }))
	return pgx.CollectRows(rows, pgx.RowToStructByName[Record])
}
