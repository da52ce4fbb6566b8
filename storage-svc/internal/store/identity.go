package store

import (
	"context"
	"fmt"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
)

// Identity implements provider.Identities.
func (s *Store) Identity(ctx context.Context) (i provider.Identity, err error) {
	err = s.pool.QueryRow(ctx, `-- name: readIdentity
SELECT id, written FROM provider_identity`).Scan(&i.ID, &i.Written)
	if err != nil {
		return i, fmt.Errorf("read identity: %w", err)
	}
	return i, nil
}

// SetIdentity implements provider.Identities.
func (s *Store) SetIdentity(ctx context.Context, was, next provider.Identity) (written bool, err error) {
	tag, err := s.pool.Exec(ctx, `-- name: setIdentity
UPDATE provider_identity SET id = $3, written = $4 WHERE id = $1 AND written = $2`,
		was.ID, was.Written, next.ID, next.Written)
	if err != nil {
		return false, fmt.Errorf("set identity: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// HasStorages implements provider.Identities.
func (s *Store) HasStorages(ctx context.Context) (has bool, err error) {
	err = s.pool.QueryRow(ctx, `-- name: hasStorages
SELECT EXISTS (SELECT FROM storage WHERE status = 'ready' OR desired = 'absent')`).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("check for storages: %w", err)
	}
	return has, nil
}
