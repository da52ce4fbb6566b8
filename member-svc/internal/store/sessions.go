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
	UsedAt    *time.Time // to the hour; nil: not used since it was opened
	ExpiresAt time.Time
}

// Sessions returns a member's sessions, the newest first.
func (s *Store) Sessions(ctx context.Context, memberID string) ([]Session, error) {
	rows, _ := s.pool.Query(ctx, `-- name: listSessions
SELECT token_hash, created_at, used_at, expires_at FROM session
WHERE member_id = $1 AND expires_at > now() ORDER BY created_at DESC, token_hash`, memberID)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Session])
}

// TouchSession records that a session is in use. It writes at most once an hour.
func (s *Store) TouchSession(ctx context.Context, tokenHash []byte) error {
	_, err := s.pool.Exec(ctx, `-- name: touchSession
UPDATE session SET used_at = date_trunc('hour', now())
WHERE token_hash = $1 AND used_at IS DISTINCT FROM date_trunc('hour', now())`, tokenHash)
	return err
}

// EndSessions ends the given sessions of a member and returns how many it ended.
func (s *Store) EndSessions(ctx context.Context, memberID string, tokenHashes [][]byte) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: endSomeSessions
DELETE FROM session WHERE member_id = $1 AND token_hash = ANY ($2)`, memberID, tokenHashes)
	return tag.RowsAffected(), err
}

// ChangePassword replaces the password hash old with changed and ends all of the member's sessions except keep.
// If the member's hash is no longer old, the error is [ErrNotFound]. As in erase, the member's row is updated
// before the sessions are deleted, so that no session can appear in between.
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
