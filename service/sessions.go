package service

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Sessions let a browser act for a bearer without keeping the bearer's token. A session contains its expiry,
// and is signed with a key derived from Secret and the token's hash: it is valid in every replica, and ends
// with its token. Only sessions that were ended before their expiry are stored. Safe for concurrent use.
type Sessions struct {
	Tokens   *Tokens       // with which a session begins
	Secret   []byte        // the same in all replicas
	Lifetime time.Duration // of a session, at most
	Ended    EndedSessions // shared by all replicas
}

// EndedSessions stores the hashes of sessions that were ended before their expiry.
type EndedSessions interface {
	// EndSession is called for valid sessions only. It may forget them once they have expired.
	EndSession(ctx context.Context, hash []byte, expires time.Time) error
	// SessionEnded reports whether EndSession was called with the hash.
	SessionEnded(ctx context.Context, hash []byte) (bool, error)
}

// sessionTimeout bounds each call of [EndedSessions].
const sessionTimeout = 2 * time.Second

// Begin returns a session for the holder of a secret token, the holder's name, and when the session ends.
// Refusals are those of [Tokens.Require].
func (s *Sessions) Begin(r *http.Request, secret string) (session, name string, ends time.Time, refusal *wire.Problem) {
	who, refusal := s.Tokens.authenticate(r, secret)
	if refusal != nil {
		return "", "", time.Time{}, refusal
	}
	ends = time.Now().Add(s.Lifetime)
	if !who.expires.IsZero() && who.expires.Before(ends) {
		ends = who.expires
	}
	claim := strconv.FormatInt(ends.Unix(), 10) + "." + rand.Text()
	return claim + "." + s.sign(claim, who), who.name, ends, nil
}

// Resume returns a context for requests of a session: [Tokens.Require] lets them pass as if they carried the
// token that the session began with, and [Actor] returns its holder. It reports false if the session is over or
// invalid. An error means that this is not known.
func (s *Sessions) Resume(ctx context.Context, session string) (context.Context, bool, error) {
	who, _, ok := s.verify(session)
	if !ok {
		return ctx, false, nil
	}
	bounded, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	ended, err := s.Ended.SessionEnded(bounded, sessionHash(session))
	if err != nil || ended {
		return ctx, false, err
	}
	return context.WithValue(ctx, actorKey{}, who), true, nil
}

// End ends a session in every replica, and returns its holder's name; "" if the session is not valid.
func (s *Sessions) End(ctx context.Context, session string) (name string, err error) {
	who, expires, ok := s.verify(session)
	if !ok {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	return who.name, s.Ended.EndSession(ctx, sessionHash(session), expires)
}

// verify returns the holder of a session and when it ends. ok is false if its signature is wrong, or if the
// session or its token has expired.
func (s *Sessions) verify(session string) (who token, expires time.Time, ok bool) {
	claim, signature := session, ""
	if dot := strings.LastIndexByte(session, '.'); dot >= 0 {
		claim, signature = session[:dot], session[dot+1:]
	}
	until, nonce, _ := strings.Cut(claim, ".")
	ends, err := strconv.ParseInt(until, 10, 64)
	if err != nil || nonce == "" || time.Now().Unix() >= ends {
		return token{}, time.Time{}, false
	}
	for _, candidate := range s.Tokens.list() {
		if hmac.Equal([]byte(signature), []byte(s.sign(claim, candidate))) {
			return candidate, time.Unix(ends, 0), !candidate.expired()
		}
	}
	return token{}, time.Time{}, false
}

func (s *Sessions) sign(claim string, t token) string {
	key := hmac.New(sha256.New, s.Secret)
	_, _ = key.Write([]byte("session of an admin token\n")) // a hash never fails
	_, _ = key.Write(t.hash[:])
	mac := hmac.New(sha256.New, key.Sum(nil))
	_, _ = mac.Write([]byte(claim))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func sessionHash(session string) []byte {
	sum := sha256.Sum256([]byte(session))
	return sum[:]
}
