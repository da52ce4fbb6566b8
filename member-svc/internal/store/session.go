package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/service"
)

// sessionsPerMember is the maximum number of a member's sessions. Opening another one ends the oldest.
const sessionsPerMember = 20

// Account is a member as the member's own requests see it.
type Account struct {
	Record
	Email        *string
	PasswordHash string
	SessionStale bool // this hour's use is not stored yet
}

var selectAccount = "SELECT " + recordColumns + `, m.email, m.password_hash,
       session.used_at IS DISTINCT FROM date_trunc('hour', now()) AS session_stale` + recordTables

// Credentials are what checking a member's password takes.
type Credentials struct{ MemberID, PasswordHash string }

// Credentials returns the credentials of the member with this username, or empty ones if there is none. The
// query reads one index entry and one row in either case, the member's or that of the preceding username, so
// that its duration does not reveal which.
func (s *Store) Credentials(ctx context.Context, usernameKey string) (Credentials, error) {
	rows, _ := s.pool.Query(ctx, `-- name: findCredentials
SELECT CASE WHEN username_key = $1 THEN id::text ELSE '' END AS member_id,
       CASE WHEN username_key = $1 THEN password_hash ELSE '' END AS password_hash
FROM member WHERE username_key <= $1 ORDER BY username_key DESC LIMIT 1`, usernameKey)
	c, err := one[Credentials](rows)
	if errors.Is(err, ErrNotFound) { // no username precedes it
		return Credentials{}, nil
	}
	return c, err
}

// RenewHash replaces the hash old with another hash of the same password. It does nothing if the member's hash
// is no longer old.
func (s *Store) RenewHash(ctx context.Context, memberID, old, renewed string) error {
	_, err := s.pool.Exec(ctx,
		"-- name: renewHash\nUPDATE member SET password_hash = $3 WHERE id = $1 AND password_hash = $2", memberID, old,
		renewed)
	return err
}

// AccountBySession returns the member to whom the session belongs, or [ErrNotFound] if it is unknown or
// expired.
func (s *Store) AccountBySession(ctx context.Context, tokenHash []byte) (Account, error) {
	rows, _ := s.pool.Query(ctx, "-- name: findSession\n"+selectAccount+
		" JOIN session ON session.member_id = m.id WHERE session.token_hash = $1 AND session.expires_at > now()",
		tokenHash)
	return one[Account](rows)
}

// OpenSession stores a session of the member, ends their oldest sessions beyond 20, and returns when the
// session expires. If the member's password hash is no longer passwordHash, the error is [ErrNotFound].
func (s *Store) OpenSession(
	ctx context.Context, memberID, passwordHash string, tokenHash []byte, lifetime time.Duration,
) (expires time.Time, err error) {
	err = service.Repeat(ctx, func() error {
		expires, err = s.openSession(ctx, memberID, passwordHash, tokenHash, lifetime)
		return err
	})
	return expires, err
}

func (s *Store) openSession(
	ctx context.Context, memberID, passwordHash string, tokenHash []byte, lifetime time.Duration,
) (time.Time, error) {
	var expires time.Time
	b := new(pgx.Batch)
	b.Queue(`-- name: openSession
INSERT INTO session (token_hash, member_id, expires_at)
SELECT $1, id, now() + make_interval(secs => $4) FROM member WHERE id = $2 AND password_hash = $3 FOR NO KEY UPDATE
RETURNING expires_at`, tokenHash, memberID, passwordHash, lifetime.Seconds()).
		Query(func(rows pgx.Rows) (err error) {
			expires, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[time.Time])
			return notFound(err)
		})
	b.Queue(`-- name: endOldestSessions
DELETE FROM session WHERE token_hash IN (
       SELECT token_hash FROM session WHERE member_id = $1 ORDER BY created_at DESC,
           token_hash OFFSET $2)`, memberID, sessionsPerMember)
	return expires, s.pool.SendBatch(ctx, b).Close()
}

// CloseSession ends a session. The error is [ErrNotFound] if it is unknown or expired.
func (s *Store) CloseSession(ctx context.Context, tokenHash []byte) error {
	tag, err := s.pool.Exec(ctx,
		"-- name: closeSession\nDELETE FROM session WHERE token_hash = $1 AND expires_at > now()", tokenHash)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	return err
}

// ForgetExpiredSessions deletes up to limit expired sessions and returns how many it deleted.
func (s *Store) ForgetExpiredSessions(ctx context.Context, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: forgetExpiredSessions
DELETE FROM session WHERE token_hash IN (SELECT token_hash FROM session WHERE expires_at <= now() LIMIT $1
    FOR UPDATE SKIP LOCKED)`, limit)
	return tag.RowsAffected(), err
}
