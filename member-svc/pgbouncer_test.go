//go:build verify

package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// Signups work behind a real PgBouncer in transaction mode, with no special setting; migrate says what to set.
// Run by make verify.
func TestSignupsBehindPgBouncer(t *testing.T) {
	const people = 120
	behind := testenv.PgBouncer(t, storetest.URL(t))
	env := environment(t, behind, "nats://127.0.0.1:1")
	s := start(t, env)
	c := &statuses{t: t}
	crowd(t, s, c, "mina", people)
	if c.of(http.StatusCreated) != people {
		t.Errorf("answers %v", c.counts)
	}
	if !strings.Contains(s.log.String(), "a connection pooler is in front") {
		t.Error("the log does not say what was found")
	}
	c = &statuses{t: t}
	status, header, _, raw := call(t, "GET", s.admin+"/admin/v1/sagas", "", "Authorization", "Bearer viewer-token")
	if c.add("list", status, header, raw); status != http.StatusOK {
		t.Errorf("list: %d %s", status, raw)
	}
	err := run(t.Context(), []string{"migrate"}, func(name string) string { return env[name] }, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "connect to Postgres itself") {
		t.Errorf("migrate through a pooler: %v", err)
	}
}
