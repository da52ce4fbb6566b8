package service

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// Sessions let a browser act for a bearer without keeping its token. A session says
// until when it holds, and is signed with a key made of Secret and the token's hash: it
// needs no storage, holds in every replica, and ends with its token. It cannot be taken
// back otherwise. Safe for concurrent use.
type Sessions struct {
	Tokens   *Tokens
	Secret   []byte
	Lifetime time.Duration
}

// Begin returns a session for the holder of a secret token, and when it ends.
func (s *Sessions) Begin(secret string) (session string, ends time.Time, ok bool) {
	who, ok := s.Tokens.find("Bearer " + secret)
	if !ok {
		return "", time.Time{}, false
	}
	ends = time.Now().Add(s.Lifetime)
	until := strconv.FormatInt(ends.Unix(), 10)
	return until + "." + s.sign(until, who), ends, true
}

// Resume returns a context in which requests are let pass by [Tokens.Require] as if
// they had the token that the session began with, and by which [Actor] knows who it is.
// It reports false for a session that is over or none.
func (s *Sessions) Resume(ctx context.Context, session string) (context.Context, bool) {
	until, signature, _ := strings.Cut(session, ".")
	ends, err := strconv.ParseInt(until, 10, 64)
	if err != nil || time.Now().Unix() >= ends {
		return ctx, false
	}
	for _, candidate := range s.Tokens.list() {
		if hmac.Equal([]byte(signature), []byte(s.sign(until, candidate))) {
			return context.WithValue(ctx, actorKey{}, candidate), true
		}
	}
	return ctx, false
}

func (s *Sessions) sign(until string, t token) string {
	key := hmac.New(sha256.New, s.Secret)
	_, _ = key.Write([]byte("session of an admin token\n")) // a hash never fails
	_, _ = key.Write(t.hash[:])
	mac := hmac.New(sha256.New, key.Sum(nil))
	_, _ = mac.Write([]byte(until))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
