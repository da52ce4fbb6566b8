package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

// KeyLifetime is how long an idempotency key is remembered.
const KeyLifetime = 24 * time.Hour

// Member is a new member.
type Member struct {
	ID           string // UUIDv7
	Username     string // as typed
	UsernameKey  string // the username's unique form
	Email        string // "" if there is none
	Plan         string
	PasswordHash string
}

// Key is an idempotency key, with the request that it belongs to and the response to repeat.
type Key struct {
	Value       string
	Fingerprint []byte // of the request
	Response    []byte
}

// Known is what the database knows about a requested signup.
type Known struct {
	Now    time.Time
	Taken  bool // a member has the username, or one who has left had it
	Exists bool // a signup with this signup id was committed

	// Of the first request with this key; nil if the key is new.
	Fingerprint, Response []byte
	PasswordHash          string // of the member that it created
}

// LookUp reads all that decides about a signup in one round trip: before the password is hashed, and again when
// the outcome of [Store.SignUp] is unknown.
func (s *Store) LookUp(ctx context.Context, usernameKey, key, signupID string) (known Known, err error) {
	err = service.Repeat(ctx, func() error {
		known, err = s.lookUp(ctx, usernameKey, key, signupID)
		return err
	})
	return known, err
}

func (s *Store) lookUp(ctx context.Context, usernameKey, key, signupID string) (Known, error) {
	rows, _ := s.pool.Query(ctx, `-- name: lookUpSignup
SELECT now() AS now, k.body_hmac AS fingerprint, k.response, coalesce(m.password_hash, '') AS password_hash,
       EXISTS (SELECT FROM member WHERE username_key = $1) OR EXISTS (SELECT FROM member WHERE name_mac = $4) AS taken,
       EXISTS (SELECT FROM signup_saga WHERE signup_id = $3) AS exists
FROM (VALUES (1)) AS always
LEFT JOIN idempotency_key k ON k.key = $2 AND k.expires_at > now()
LEFT JOIN member m ON m.id = k.member_id`, usernameKey, key, signupID, s.nameMAC(usernameKey))
	return one[Known](rows)
}

// SignUp stores a new member, the saga, its first timeline row, the idempotency key if there is one, and the
// events. It sends one batch, which Postgres runs as one implicit transaction in one round trip. If the
// username or the key exists, the error is [ErrTaken]. After any other error the signup may or may not be
// committed; [Store.LookUp] tells.
func (s *Store) SignUp(ctx context.Context, m Member, r Record, effects []contract.Type, key *Key) error {
	r.TraceParent = service.TraceParent(ctx)
	err := service.Repeat(ctx, func() error { return s.insert(ctx, m, r, effects, key) })
	if pg := new(pgconn.PgError); errors.As(err, &pg) && pg.Code == "23505" {
		return fmt.Errorf("%w: %w", ErrTaken, err)
	}
	if err == nil {
		s.wake()
	}
	return err
}

func (s *Store) insert(ctx context.Context, m Member, r Record, effects []contract.Type, key *Key) error {
	b := new(pgx.Batch)
	b.Queue(`-- name: insertMember
INSERT INTO member (id, username, username_key, name_mac, email, plan, password_hash, created_at)
VALUES ($1, $2, $3, $4, nullif($5, ''), $6, $7,
    $8)`, m.ID, m.Username, m.UsernameKey, s.nameMAC(m.UsernameKey), m.Email, m.Plan, m.PasswordHash, r.CreatedAt)
	b.Queue(`-- name: insertSaga
INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at, due_at,
    created_at, updated_at, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7, now(), $8, $9, $10, $11)`,
		r.ID, r.MemberID, r.SignupID, r.State, r.Generation, r.Version, r.OpenedAt, r.DueAt, r.CreatedAt, r.UpdatedAt,
		r.TraceParent)
	b.Queue(
		"-- name: beginTimeline\nINSERT INTO saga_event (saga_id, kind, state, version, generation) VALUES ($1, $2, "+
			"$3, $4, $5)",
		r.ID, saga.SignedUp, r.State, r.Version, r.Generation)
	if key != nil {
		b.Queue("-- name: forgetExpiredKey\nDELETE FROM idempotency_key WHERE key = $1 AND expires_at <= now()",
			key.Value)
		b.Queue(`-- name: insertKey
INSERT INTO idempotency_key (key, member_id, body_hmac, response, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))`,
			key.Value, m.ID, key.Fingerprint, key.Response, KeyLifetime.Seconds())
	}
	if err := queueEffects(b, r, effects); err != nil { // last, so that a failed signup uses no event id
		return err
	}
	return s.pool.SendBatch(ctx, b).Close()
}

// ForgetExpiredKeys deletes up to limit expired idempotency keys and returns how many it deleted.
func (s *Store) ForgetExpiredKeys(ctx context.Context, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: forgetExpiredKeys
DELETE FROM idempotency_key WHERE key IN (SELECT key FROM idempotency_key WHERE expires_at <= now() LIMIT $1)`, limit)
	return tag.RowsAffected(), err
}

func queueEffects(b *pgx.Batch, r Record, effects []contract.Type) error {
	for _, what := range effects {
		e, err := Message(r, what)
		if err != nil {
			return err
		}
		outbox.AppendBatch(b, e)
	}
	return nil
}
