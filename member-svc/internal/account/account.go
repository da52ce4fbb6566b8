// Package account is what a member does with an account that exists: sign in, look
// at it, leave. It talks to nothing but Postgres.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// Errors beside [signup.ErrBusy] and those of the database.
var (
	ErrCredentials = errors.New("the username or the password is wrong")
	ErrNoSession   = errors.New("a valid session is required")
	ErrTooNew      = errors.New("the saga is at a step that this version does not know")
)

// Config configures a [Service].
type Config struct {
	SessionLifetime time.Duration
	DatabaseTimeout time.Duration // for each look at the database
}

// Service serves members. Safe for concurrent use.
type Service struct {
	cfg    Config
	store  *store.Store
	hasher *signup.Hasher
	steps  saga.Steps
}

// New returns a service.
func New(cfg Config, st *store.Store, hasher *signup.Hasher, steps saga.Steps) *Service {
	return &Service{cfg, st, hasher, steps}
}

// Session is what a member gets for his password.
type Session struct {
	Token     string    `json:"token"` // 256 random bits: only its hash is stored
	ExpiresAt time.Time `json:"expires_at"`
}

// View is a member as he sees himself.
type View struct {
	MemberID  string             `json:"member_id"`
	Username  *string            `json:"username"`
	Email     *string            `json:"email"`
	Plan      string             `json:"plan"`
	CreatedAt time.Time          `json:"created_at"`
	SignupID  string             `json:"signup_id"`
	Storage   signup.StorageView `json:"storage"`
}

// SignIn opens a session. A name that nobody has costs the same work as a wrong
// password, and gets the same answer: [ErrCredentials].
func (s *Service) SignIn(ctx context.Context, username, password string) (Session, error) {
	var a store.Account
	key, err := signup.UsernameKey(username)
	if err == nil {
		a, err = timed(ctx, s, func(ctx context.Context) (store.Account, error) { return s.store.AccountByName(ctx, key) })
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return Session{}, err
		}
	}
	if err := s.verify(ctx, a, password); err != nil {
		return Session{}, err
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	session := Session{Token: base64.RawURLEncoding.EncodeToString(random[:])}
	session.ExpiresAt, err = timed(ctx, s, func(ctx context.Context) (time.Time, error) {
		return s.store.OpenSession(ctx, a.MemberID, a.PasswordHash, tokenHash(session.Token), s.cfg.SessionLifetime)
	})
	session.ExpiresAt = session.ExpiresAt.UTC()
	if errors.Is(err, store.ErrNotFound) { // he left while we looked
		err = ErrCredentials
	}
	return session, err
}

// SignOut ends the session, or returns [ErrNoSession].
func (s *Service) SignOut(ctx context.Context, token string) error {
	_, err := timed(ctx, s, func(ctx context.Context) (any, error) { return nil, s.store.CloseSession(ctx, tokenHash(token)) })
	return noSession(err)
}

// Me returns whose session it is, or [ErrNoSession].
func (s *Service) Me(ctx context.Context, token string) (View, error) {
	a, err := s.session(ctx, token)
	return View{
		MemberID: a.MemberID, Username: a.Username, Email: a.Email, Plan: a.Plan, CreatedAt: a.CreatedAt.UTC(), SignupID: a.SignupID,
		Storage: signup.NewView(a.Record, s.steps).Storage,
	}, err
}

// Withdraw ends the membership: what was promised is taken back step by step, and
// who the member was is forgotten at once. It asks for the password again.
func (s *Service) Withdraw(ctx context.Context, token, password string) (signup.View, error) {
	a, err := s.session(ctx, token)
	if err != nil {
		return signup.View{}, err
	}
	if err := s.verify(ctx, a, password); err != nil {
		return signup.View{}, err
	}
	// A client that leaves now does not tear the connection.
	ctx = context.WithoutCancel(ctx)
	record, failure := timed(ctx, s, func(ctx context.Context) (store.Record, error) {
		results, err := s.store.Apply(ctx, store.Change{SagaID: a.ID, Event: saga.Event{Kind: saga.Withdraw}})
		if err != nil {
			return store.Record{}, err
		}
		if results[0].Outcome == saga.Refused {
			return store.Record{}, ErrTooNew
		}
		return results[0].Record, nil
	})
	if failure != nil { // nobody knows whether the commit happened: ask
		record, err = timed(ctx, s, func(ctx context.Context) (store.Record, error) { return s.store.Find(ctx, a.SignupID) })
		if err != nil || !record.State.Left() {
			return signup.View{}, failure
		}
	}
	return signup.NewView(record, s.steps), nil
}

func (s *Service) session(ctx context.Context, token string) (store.Account, error) {
	a, err := timed(ctx, s, func(ctx context.Context) (store.Account, error) {
		return s.store.AccountBySession(ctx, tokenHash(token))
	})
	return a, noSession(err)
}

func noSession(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoSession
	}
	return err
}

func (s *Service) verify(ctx context.Context, a store.Account, password string) error {
	ok, err := s.hasher.Verify(ctx, a.PasswordHash, norm.NFC.String(password))
	if err == nil && !ok {
		err = ErrCredentials
	}
	return err
}

// timed bounds one look at the database.
func timed[T any](ctx context.Context, s *Service, look func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DatabaseTimeout)
	defer cancel()
	return look(ctx)
}

func tokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
