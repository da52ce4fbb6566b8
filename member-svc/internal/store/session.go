package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/service"
)

// sessionsPerMember bounds a member's sessions: the oldest end when there are more.
const sessionsPerMember = 20

// Account is a member as his own requests see him.
type Account struct {
	Record
	Email        *string
	PasswordHash string
	SessionStale bool // its use was not noted in this hour
}

var selectAccount = "SELECT " + recordColumns + `, m.email, m.password_hash,
       session.used_at IS DISTINCT FROM date_trunc('hour', now()) AS session_stale` + recordTables

// Credentials is what it takes to check somebody's password.
type Credentials struct{ MemberID, PasswordHash string }

// Credentials returns those of the member with this name, empty ones if there is none.
// One index is read and one row, his or that of the name before, so that its time
// does not tell which.
func (s *Store) Credentials(ctx context.Context, usernameKey string) (Credentials, error) {
	rows, err := s.pool.Query(ctx, `-- name: findCredentials
SELECT CASE WHEN username_key = $1 THEN id::text ELSE '' END AS member_id,
       CASE WHEN username_key = $1 THEN password_hash ELSE '' END AS password_hash
FROM member WHERE username_key <= $1 ORDER BY username_key DESC LIMIT 1`, usernameKey)
	if err != nil {
		return Credentials{}, err
	}
	c, err := one[Credentials](rows)
	if errors.Is(err, ErrNotFound) { // there is no name before it
		return Credentials{}, nil
	}
	return c, err
}

// RenewHash puts another hash of the same password in the place of the old one, unless
// that is not there any more.
func (s *Store) RenewHash(ctx context.Context, memberID, old, renewed string) error {
	_, err := s.pool.Exec(ctx,
		"-- name: renewHash\nUPDATE member SET password_hash = $3 WHERE id = $1 AND password_hash = $2", memberID, old,
		renewed)
	return err
}

// AccountBySession returns the member whose session this is, or [ErrNotFound].
func (s *Store) AccountBySession(ctx context.Context, tokenHash []byte) (Account, error) {
	rows, err := s.pool.Query(ctx, "-- name: findSession\n"+selectAccount+
		" JOIN session ON session.member_id = m.id WHERE session.token_hash = $1 AND session.expires_at > now()",
		tokenHash)
	if err != nil {
		return Account{}, err
	}
	return one[Account](rows)
}

// OpenSession stores a session of the member and returns when it ends; the member's
// oldest ones end beyond 20. A member whose password hash is another one by now gets
// none: [ErrNotFound].
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

// CloseSession ends a session; [ErrNotFound] if there is none.
func (s *Store) CloseSession(ctx context.Context, tokenHash []byte) error {
	tag, err := s.pool.Exec(ctx,
		"-- name: closeSession\nDELETE FROM session WHERE token_hash = $1 AND expires_at > now()", tokenHash)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	return err
}

// ForgetExpiredSessions removes up to limit sessions whose time is over and returns
// how many there were.
func (s *Store) ForgetExpiredSessions(ctx context.Context, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: forgetExpiredSessions
DELETE FROM session WHERE token_hash IN (SELECT token_hash FROM session WHERE expires_at <= now() LIMIT $1
    FOR UPDATE SKIP LOCKED)`, limit)
	return tag.RowsAffected(), err
}
