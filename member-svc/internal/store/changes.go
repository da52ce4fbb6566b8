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
	ids, versions, redrives := make([]string, len(seen)), make([]int64, len(seen)), make([]int, len(seen))
	for i, one := range seen {
		ids[i], versions[i], redrives[i] = one.SignupID, one.Version, one.Redrives
	}
	rows, err := s.pool.Query(ctx, "-- name: changedSignups\n"+selectRecord+`
JOIN unnest($1::text[], $2::bigint[], $3::int[]) AS seen (signup_id, version, redrives) ON seen.signup_id = s.signup_id
WHERE (s.version, s.redrives) <> (seen.version, seen.redrives)`, ids, versions, redrives)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Record])
}
