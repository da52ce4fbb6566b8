package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// List returns up to limit storages in the order of their members' ids: those after the given id, or the first
// ones if it is empty. Reading page by page misses no storage that existed at the beginning, because storages
// are never deleted.
func (s *Store) List(ctx context.Context, after string, limit int) ([]provision.Storage, error) {
	where, args := "", []any{limit}
	if after != "" {
		where, args = "WHERE member_id > $2", append(args, after)
	}
	rows, _ := s.pool.Query(ctx, "-- name: listStorages\nSELECT "+columns+" FROM storage "+where+
		" ORDER BY member_id LIMIT $1", args...)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[provision.Storage])
	if err != nil {
		return nil, fmt.Errorf("list storages: %w", err)
	}
	return page, nil
}
