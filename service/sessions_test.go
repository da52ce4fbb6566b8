package service_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

func tokenLine(name, role, secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return name + ":" + role + ":" + hex.EncodeToString(sum[:]) + "\n"
}

const (
	annsToken = "the token of ann"
	bobsToken = "the token of bob"
)

// ended stores sessions that were ended, as the database of the replicas does.
type ended struct {
	mu     sync.Mutex
	hashes map[string]time.Time
	err    error
}

func (e *ended) EndSession(_ context.Context, hash []byte, expires time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hashes[string(hash)] = expires
	return e.err
}

func (e *ended) SessionEnded(_ context.Context, hash []byte) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.hashes[string(hash)]
	return ok, e.err
}

func begin(t *testing.T, s *service.Sessions, secret string) string {
	t.Helper()
	session, _, ends, refusal := s.Begin(httptest.NewRequest(http.MethodPost, "/", http.NoBody), secret)
	if refusal != nil || time.Until(ends).Round(time.Minute) != s.Lifetime.Round(time.Minute) {
		t.Fatalf("session %v, %v", refusal, ends)
	}
	return session
}

// as returns the status of a request with the session, and who the handler thinks made it.
func as(s *service.Sessions, session, role string) (status int, who string) {
	handler := s.Tokens.Require(role)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		who, _ = service.Actor(r.Context())
	}))
	r, w := httptest.NewRequest(http.MethodGet, "/", http.NoBody), httptest.NewRecorder()
	if ctx, ok, err := s.Resume(r.Context(), session); ok && err == nil {
		r = r.WithContext(ctx)
	}
	handler.ServeHTTP(w, r)
	return w.Code, who
}

func TestSessionStandsForItsToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, tokenLine("ann", service.RoleOperator, annsToken)+tokenLine("bob", service.RoleViewer, bobsToken))
	tokens, err := service.LoadTokens(path, discard())
	if err != nil {
		t.Fatal(err)
	}
	gone := &ended{hashes: map[string]time.Time{}}
	with := func(secret string, lifetime time.Duration) *service.Sessions {
		return &service.Sessions{Tokens: tokens, Secret: []byte(secret), Lifetime: lifetime, Ended: gone}
	}
	const secret = "one secret of all replicas"
	sessions, replica, stranger := with(secret, time.Hour), with(secret, time.Minute), with("another secret", time.Hour)
	ann, bob := begin(t, sessions, annsToken), begin(t, sessions, bobsToken)
	if ann == begin(t, sessions, annsToken) {
		t.Error("two sessions are the same")
	}
	claim, signature := ann[:strings.LastIndex(ann, ".")], ann[strings.LastIndex(ann, ".")+1:]
	until, _, _ := strings.Cut(ann, ".")
	over := begin(t, with(secret, -time.Second), annsToken)
	for name, c := range map[string]struct {
		sessions      *service.Sessions
		session, role string
		status        int
		who           string
	}{
		"an operator operates":     {sessions, ann, service.RoleOperator, 200, "ann"},
		"in every replica":         {replica, ann, service.RoleOperator, 200, "ann"},
		"a viewer views":           {sessions, bob, service.RoleViewer, 200, "bob"},
		"a viewer operates":        {sessions, bob, service.RoleOperator, 403, ""},
		"signed by another party":  {sessions, begin(t, stranger, annsToken), service.RoleViewer, 401, ""},
		"made longer":              {sessions, "9" + ann, service.RoleViewer, 401, ""},
		"without a signature":      {sessions, claim + ".", service.RoleViewer, 401, ""},
		"without a nonce":          {sessions, until + "." + signature, service.RoleViewer, 401, ""},
		"nothing":                  {sessions, "", service.RoleViewer, 401, ""},
		"expired before its start": {sessions, over, service.RoleViewer, 401, ""},
	} {
		if status, who := as(c.sessions, c.session, c.role); status != c.status || who != c.who {
			t.Errorf("%s: %d as %q, want %d as %q", name, status, who, c.status, c.who)
		}
	}

	write(t, path, tokenLine("ann", service.RoleViewer, annsToken)) // ann has fewer rights, and bob's token is gone
	for session, want := range map[string]int{ann: 403, bob: 401} {
		if status, _ := as(sessions, session, service.RoleOperator); status != want {
			t.Errorf("%d after the tokens changed, want %d", status, want)
		}
	}
}

func TestEndedSessionIsOfNoUse(t *testing.T) {
	tokens, err := service.ParseTokens(tokenLine("ann", service.RoleOperator, annsToken))
	if err != nil {
		t.Fatal(err)
	}
	gone := &ended{hashes: map[string]time.Time{}}
	sessions := &service.Sessions{Tokens: tokens, Secret: []byte("secret"), Lifetime: time.Hour, Ended: gone}
	replica := &service.Sessions{Tokens: tokens, Secret: []byte("secret"), Lifetime: time.Hour, Ended: gone}
	one, other := begin(t, sessions, annsToken), begin(t, sessions, annsToken)
	if name, err := sessions.End(t.Context(), one); err != nil || name != "ann" {
		t.Fatalf("%q %v", name, err)
	}
	for name, c := range map[string]struct {
		session string
		status  int
	}{"the ended one": {one, 401}, "another of the same token": {other, 200}} {
		if status, _ := as(replica, c.session, service.RoleViewer); status != c.status {
			t.Errorf("%s: %d, want %d", name, status, c.status)
		}
	}
	// Strings that are not a session are not stored: nobody can fill the table.
	for _, session := range []string{"", "x", one + "x", "9" + one, begin(t, &service.Sessions{
		Tokens: tokens, Secret: []byte("another"), Lifetime: time.Hour, Ended: gone,
	}, annsToken)} {
		if name, err := sessions.End(t.Context(), session); err != nil || name != "" || len(gone.hashes) != 1 {
			t.Errorf("%q: %q, %v, %d stored", session, name, err, len(gone.hashes))
		}
	}
	gone.err = errors.New("the database is away")
	if _, ok, err := sessions.Resume(t.Context(), other); ok || err == nil {
		t.Errorf("resumed without knowing: %v", err)
	}
	if _, err := sessions.End(t.Context(), other); err == nil {
		t.Error("a session that was not ended counts as ended")
	}
}
