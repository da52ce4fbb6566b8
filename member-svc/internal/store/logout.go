package store

import (
	"context"
	"time"
)

// EndSession ends a console session. The session cannot be used again; the row is needed until expires.
func (s *Store) EndSession(ctx context.Context, hash []byte, expires time.Time) error {
	_, err := s.pool.Exec(ctx, `-- name: endConsoleSession
INSERT INTO console_logout (session_hash, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING`, hash, expires)
	return err
}

// SessionEnded reports whether a console session was ended.
func (s *Store) SessionEnded(ctx context.Context, hash []byte) (ended bool, err error) {
	err = s.pool.QueryRow(ctx, `-- name: consoleSessionEnded
SELECT EXISTS (SELECT FROM console_logout WHERE session_hash = $1)`, hash).Scan(&ended)
	return ended, err
}

// ForgetLogouts deletes up to limit ended console sessions that have expired, and returns how many it deleted.
func (s *Store) ForgetLogouts(ctx context.Context, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: forgetLogouts
DELETE FROM console_logout WHERE session_hash IN (
       SELECT session_hash FROM console_logout WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED)`, limit)
	return tag.RowsAffected(), err
}
