// Package account serves members who have an account: sign in and out, read it, change the password, leave. It
// depends on nothing but Postgres.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// Errors besides [password.ErrBusy] and database errors.
var (
	ErrCredentials = errors.New("the username or the password is wrong")
	ErrNoSession   = errors.New("a valid session is required")
)

// errHashChanged means that the hash has changed twice while a request was served.
var errHashChanged = fmt.Errorf("%w: the hash has changed twice", password.ErrBusy)

// Config configures a [Service].
type Config struct {
	SessionLifetime time.Duration
	DatabaseTimeout time.Duration // of each database call
	Passwords       password.Policy
	Log             *slog.Logger
}

// Service serves members. It is safe for concurrent use.
type Service struct {
	cfg    Config
	store  *store.Store
	hasher *password.Hasher
	steps  saga.Steps
}

// New returns a service.
func New(cfg Config, st *store.Store, hasher *password.Hasher, steps saga.Steps) *Service {
	return &Service{cfg, st, hasher, steps}
}

// SignIn opens a session. An unknown username costs the same work as a wrong password and gets the same answer,
// [ErrCredentials]. So does the key "", which nobody has.
func (s *Service) SignIn(ctx context.Context, usernameKey, password string) (wire.Session, error) {
	session, err := s.signIn(ctx, usernameKey, password)
	if errors.Is(err, store.ErrNotFound) {
		// The hash has changed since we read it: another sign-in renewed it, or the member left.
		session, err = s.signIn(ctx, usernameKey, password)
	}
	if errors.Is(err, store.ErrNotFound) {
		err = errHashChanged
	}
	return session, err
}

// signIn opens a session, or returns [store.ErrNotFound] if the hash has changed meanwhile.
func (s *Service) signIn(ctx context.Context, usernameKey, password string) (wire.Session, error) {
	c, err := timed(ctx, s,
		func(ctx context.Context) (store.Credentials, error) { return s.store.Credentials(ctx, usernameKey) })
	if err != nil {
		return wire.Session{}, err
	}
	renewed, err := s.verify(ctx, c.MemberID, c.PasswordHash, password)
	if err != nil {
		return wire.Session{}, err
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	session := wire.Session{Token: base64.RawURLEncoding.EncodeToString(random[:])}
	session.ExpiresAt, err = timed(ctx, s, func(ctx context.Context) (time.Time, error) {
		return s.store.OpenSession(ctx, c.MemberID, c.PasswordHash, tokenHash(session.Token), s.cfg.SessionLifetime)
	})
	session.ExpiresAt = session.ExpiresAt.UTC()
	if err == nil && renewed != "" {
		if _, failed := timed(ctx, s, func(ctx context.Context) (any, error) {
			return nil, s.store.RenewHash(ctx, c.MemberID, c.PasswordHash, renewed)
		}); failed != nil { // the next sign-in tries again
			s.cfg.Log.Warn("password hash not renewed", "member_id", c.MemberID, "error", failed)
		}
	}
	return session, err
}

// SignOut ends the session, or returns [ErrNoSession].
func (s *Service) SignOut(ctx context.Context, token string) error {
	_, err := timed(ctx, s,
		func(ctx context.Context) (any, error) { return nil, s.store.CloseSession(ctx, tokenHash(token)) })
	return noSession(err)
}

// Me returns the member to whom the session belongs, or [ErrNoSession].
func (s *Service) Me(ctx context.Context, token string) (wire.Member, error) {
	a, err := s.session(ctx, token)
	if err != nil {
		return wire.Member{}, err
	}
	return wire.Member{
		MemberID: a.MemberID, Username: *a.Username, Email: a.Email, Plan: a.Plan,
		CreatedAt: a.CreatedAt.UTC(), SignupID: a.SignupID, Storage: signup.NewView(a.Record, s.steps).Storage,
	}, nil
}

// Withdraw ends the membership: the member's personal data is erased at once, and their steps are taken back
// one after the other. It checks the password again.
func (s *Service) Withdraw(ctx context.Context, token, password string) (signup.View, error) {
	a, err := s.session(ctx, token)
	if err != nil {
		return signup.View{}, err
	}
	if _, err := s.verify(ctx, a.MemberID, a.PasswordHash, password); err != nil {
		return signup.View{}, err
	}
	// If the client disconnects now, the transaction still completes.
	ctx = context.WithoutCancel(ctx)
	record, failure := timed(ctx, s, func(ctx context.Context) (store.Record, error) {
		results, err := s.store.Apply(ctx, store.Change{SagaID: a.ID, Event: saga.Event{Kind: saga.Withdraw}})
		if err != nil {
			return store.Record{}, err
		}
		return results[0].Record, nil
	})
	if failure != nil { // the commit's outcome may be unknown: read it
		record, err = timed(ctx, s,
			func(ctx context.Context) (store.Record, error) { return s.store.Find(ctx, a.SignupID) })
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
	if err == nil && a.SessionStale {
		_, failed := timed(ctx, s, func(ctx context.Context) (any, error) {
			return nil, s.store.TouchSession(ctx, tokenHash(token))
		})
		if failed != nil { // the next request tries again
			s.cfg.Log.WarnContext(ctx, "last use of a session not recorded", "member_id", a.MemberID, "error", failed)
		}
	}
	return a, noSession(err)
}

func noSession(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoSession
	}
	return err
}

// verify returns a new hash if this one should be replaced, else "". It logs wrong passwords; memberID is "" if
// nobody has the username.
func (s *Service) verify(ctx context.Context, memberID, hash, password string) (renewed string, err error) {
	ok, renewed, err := s.hasher.Verify(ctx, hash, norm.NFC.String(password))
	if err == nil && !ok {
		err = ErrCredentials
		s.cfg.Log.InfoContext(ctx, "password refused", "member_id", memberID)
	}
	return renewed, err
}

// timed bounds one database call.
func timed[T any](ctx context.Context, s *Service, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DatabaseTimeout)
	defer cancel()
	return call(ctx)
}

func tokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
