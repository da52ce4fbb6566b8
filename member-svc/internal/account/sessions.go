package account

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// sessionID identifies a session. It is useless to someone who learns it: it is half of a hash of 256 random
// bits.
func sessionID(tokenHash []byte) string { return "ses_" + hex.EncodeToString(tokenHash[:16]) }

// Sessions lists all sessions of the member to whom the session belongs.
func (s *Service) Sessions(ctx context.Context, token string) ([]wire.OpenSession, error) {
	_, all, err := s.sessions(ctx, token)
	list := make([]wire.OpenSession, 0, len(all))
	for _, one := range all {
		used := one.CreatedAt
		if one.UsedAt != nil && one.UsedAt.After(used) {
			used = *one.UsedAt
		}
		list = append(list, wire.OpenSession{
			ID: sessionID(one.TokenHash), CreatedAt: one.CreatedAt.UTC(), ExpiresAt: one.ExpiresAt.UTC(),
			LastUsedAt: used.UTC().Truncate(time.Hour), Current: bytes.Equal(one.TokenHash, tokenHash(token)),
		})
	}
	return list, err
}

// EndSession ends the member's session with this id. The error is [store.ErrNotFound] if there is none.
func (s *Service) EndSession(ctx context.Context, token, id string) error {
	n, err := s.endSessions(ctx, token, func(one store.Session, _ bool) bool { return sessionID(one.TokenHash) == id })
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	return err
}

// EndSessions ends all of the member's sessions, or all except the current one if others is set.
func (s *Service) EndSessions(ctx context.Context, token string, others bool) error {
	_, err := s.endSessions(ctx, token, func(_ store.Session, current bool) bool { return !others || !current })
	return err
}

func (s *Service) endSessions(
	ctx context.Context, token string, ends func(one store.Session, current bool) bool,
) (int64, error) {
	a, all, err := s.sessions(ctx, token)
	if err != nil {
		return 0, err
	}
	var hashes [][]byte
	for _, one := range all {
		if ends(one, bytes.Equal(one.TokenHash, tokenHash(token))) {
			hashes = append(hashes, one.TokenHash)
		}
	}
	n, err := timed(ctx, s, func(ctx context.Context) (int64, error) {
		return s.store.EndSessions(ctx, a.MemberID, hashes)
	})
	if err == nil && n > 0 {
		s.cfg.Log.InfoContext(ctx, "sessions ended", "member_id", a.MemberID, "sessions", n)
	}
	return n, err
}

func (s *Service) sessions(ctx context.Context, token string) (store.Account, []store.Session, error) {
	a, err := s.session(ctx, token)
	if err != nil {
		return a, nil, err
	}
	all, err := timed(ctx, s, func(ctx context.Context) ([]store.Session, error) {
		return s.store.Sessions(ctx, a.MemberID)
	})
	return a, all, err
}

// ChangePassword replaces the member's password and ends their other sessions. It checks the old password
// again; the new one must meet the rules of a signup.
func (s *Service) ChangePassword(ctx context.Context, token, old, changed string) error {
	err := s.changePassword(ctx, token, old, changed)
	if errors.Is(err, store.ErrNotFound) { // the hash has changed since we read it
		err = s.changePassword(ctx, token, old, changed)
	}
	if errors.Is(err, store.ErrNotFound) {
		err = errHashChanged
	}
	return err
}

func (s *Service) changePassword(ctx context.Context, token, old, changed string) error {
	a, err := s.session(ctx, token)
	if err != nil {
		return err
	}
	if _, err := s.verify(ctx, a.MemberID, a.PasswordHash, old); err != nil {
		return err
	}
	changed = norm.NFC.String(changed)
	var email string
	if a.Email != nil {
		email = *a.Email
	}
	if problem := s.cfg.Passwords.Check(changed, *a.UsernameKey, email); problem != "" {
		return signup.InvalidField("/new_password", problem)
	}
	hash, err := s.hasher.Hash(ctx, changed)
	if err != nil {
		return err
	}
	// If the client disconnects now, the transaction still completes.
	ctx = context.WithoutCancel(ctx)
	_, failure := timed(ctx, s, func(ctx context.Context) (any, error) {
		return nil, s.store.ChangePassword(ctx, a.MemberID, a.PasswordHash, hash, tokenHash(token))
	})
	if failure != nil { // the commit's outcome may be unknown: read it
		now, err := s.session(ctx, token)
		if err != nil || now.PasswordHash != hash {
			return failure
		}
	}
	s.cfg.Log.InfoContext(ctx, "password changed", "member_id", a.MemberID)
	return nil
}
