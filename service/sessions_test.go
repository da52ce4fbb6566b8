package service_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

func tokenLine(name, role, secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return name + ":" + role + ":" + hex.EncodeToString(sum[:]) + "\n"
}

func TestSessionStandsForItsToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, tokenLine("ann", service.RoleOperator, "a")+tokenLine("bob", service.RoleViewer, "b"))
	tokens, err := service.LoadTokens(path, discard())
	if err != nil {
		t.Fatal(err)
	}
	sessions := &service.Sessions{Tokens: tokens, Secret: []byte("one secret of all replicas"), Lifetime: time.Hour}
	begin := func(s *service.Sessions, secret string) string {
		session, ends, ok := s.Begin(secret)
		if !ok || time.Until(ends).Round(time.Minute) != s.Lifetime.Round(time.Minute) {
			t.Fatalf("session %v, %v", ok, ends)
		}
		return session
	}
	ann, bob := begin(sessions, "a"), begin(sessions, "b")
	if _, _, ok := sessions.Begin("c"); ok {
		t.Error("a session began without a known token")
	}
	as := func(s *service.Sessions, session, role string) (status int, who string) {
		handler := tokens.Require(role)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { who, _ = service.Actor(r.Context()) }))
		r, w := httptest.NewRequest(http.MethodGet, "/", http.NoBody), httptest.NewRecorder()
		if ctx, ok := s.Resume(r.Context(), session); ok {
			r = r.WithContext(ctx)
		}
		handler.ServeHTTP(w, r)
		return w.Code, who
	}
	replica := &service.Sessions{Tokens: tokens, Secret: sessions.Secret, Lifetime: time.Minute}
	stranger := &service.Sessions{Tokens: tokens, Secret: []byte("another secret"), Lifetime: time.Hour}
	until, _, _ := strings.Cut(ann, ".")
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
		"signed by somebody else":  {sessions, begin(stranger, "a"), service.RoleViewer, 401, ""},
		"made longer":              {sessions, "9" + ann, service.RoleViewer, 401, ""},
		"without a signature":      {sessions, until + ".", service.RoleViewer, 401, ""},
		"nothing":                  {sessions, "", service.RoleViewer, 401, ""},
		"over before it has begun": {sessions, begin(&service.Sessions{Tokens: tokens, Secret: sessions.Secret, Lifetime: -time.Second}, "a"), service.RoleViewer, 401, ""},
	} {
		if status, who := as(c.sessions, c.session, c.role); status != c.status || who != c.who {
			t.Errorf("%s: %d as %q, want %d as %q", name, status, who, c.status, c.who)
		}
	}

	write(t, path, tokenLine("ann", service.RoleViewer, "a")) // fewer rights, and bob is gone
	for session, want := range map[string]int{ann: 403, bob: 401} {
		if status, _ := as(sessions, session, service.RoleOperator); status != want {
			t.Errorf("%d after the tokens changed, want %d", status, want)
		}
	}
}
