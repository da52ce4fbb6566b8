package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Session is one of a member's sessions.
type Session struct {
	TokenHash []byte
	CreatedAt time.Time
	UsedAt    *time.Time // to the hour; nil if it was not used since it was opened
	ExpiresAt time.Time
}

// Sessions returns a member's sessions, the newest first.
func (s *Store) Sessions(ctx context.Context, memberID string) ([]Session, error) {
	rows, err := s.pool.Query(ctx, `-- name: listSessions
SELECT token_hash, created_at, used_at, expires_at FROM session
WHERE member_id = $1 AND expires_at > now() ORDER BY created_at DESC, token_hash`, memberID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Session])
}

// TouchSession notes that a session is used. It writes once an hour.
func (s *Store) TouchSession(ctx context.Context, tokenHash []byte) error {
	_, err := s.pool.Exec(ctx, `-- name: touchSession
UPDATE session SET used_at = date_trunc('hour', now())
WHERE token_hash = $1 AND used_at IS DISTINCT FROM date_trunc('hour', now())`, tokenHash)
	return err
}

// EndSessions ends those of a member's sessions, and returns how many there were.
func (s *Store) EndSessions(ctx context.Context, memberID string, tokenHashes [][]byte) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: endSomeSessions
DELETE FROM session WHERE member_id = $1 AND token_hash = ANY ($2)`, memberID, tokenHashes)
	return tag.RowsAffected(), err
}

// ChangePassword puts another password's hash in the place of the old one, and ends all
// sessions but the one that is kept. A hash that was changed meanwhile is [ErrNotFound].
// The member's row comes before the sessions, as in erase: none begins behind our back.
func (s *Store) ChangePassword(ctx context.Context, memberID, old, changed string, keep []byte) error {
	b := new(pgx.Batch)
	b.Queue(`-- name: changePassword
UPDATE member SET password_hash = $3 WHERE id = $1 AND password_hash = $2`, memberID, old, changed)
	b.Queue(`-- name: endOtherSessions
DELETE FROM session WHERE member_id = $1 AND token_hash <> $3
AND EXISTS (SELECT FROM member WHERE id = $1 AND password_hash = $2)`, memberID, changed, keep)
	results := s.pool.SendBatch(ctx, b)
	tag, err := results.Exec()
	if closed := results.Close(); err == nil {
		err = closed
	}
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	return err
}
