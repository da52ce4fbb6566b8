package console_test

import (
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// looksOnly checks that a page offers no action except to log out.
func (p page) looksOnly(t *testing.T) {
	t.Helper()
	p.lacks(t, "/console/retries/new")
	if n := strings.Count(p.raw, "<form"); n != 1 {
		t.Errorf("%s has %d forms: %s", p.path, n, p.raw)
	}
}

func TestFailures(t *testing.T) {
	s := open(t)
	b, viewer := s.logIn(t, "operator-token"), s.logIn(t, "viewer-token")
	b.get("/console/failures").wants(t, 200, "no signup needs attention", "There is nothing to do.")

	s.sagas(t, 2, "needs_attention", "rejected:no-room", "no room")
	s.sagas(t, 1, "withdraw_needs_attention", "rejected:no-room", "no room")
	odd := s.sagas(t, 1, "needs_attention", `<script>&" '`, hostile)[0]
	storetest.Exec(t, s.pool,
		"UPDATE signup_saga SET retried = true, updated_at = '2026-11-22 10:00:00Z' WHERE error_message = 'no room' "+
			"AND state = 'needs_attention'")
	for _, who := range []*browser{b, viewer} {
		p := who.get("/console/failures")
		p.wants(t, 200, "4 signups in 2 groups", "3 signups</a>", "1 signup</a>", "2 failed again after a retry",
			"2026-11-22 10:00:00 UTC", "rejected", hostile, `data-copy="#message-1"`, `href="/console/sagas/`+odd)
		p.harmless(t)
		p.lacks(t, "no signup needs attention")
	}
	viewer.get("/console/failures").looksOnly(t)
	for fingerprint, sagas := range map[string]int{"error=rejected%3Ano-room": 3, "error=%3Cscript%3E%26%22+%27": 1} {
		b.get("/console/failures").wants(t, 200, `<a href="/console/sagas?`+fingerprint+`">`,
			`href="/console/retries/new?`+fingerprint+`">Retry this group`)
		if rows := viewer.pages("/console/sagas?"+fingerprint, sagaRow); len(rows[0]) != sagas {
			t.Errorf("the link of a group of %d leads to %v", sagas, rows)
		}
	}
}

// The page says how much it leaves out.
func TestManyFailures(t *testing.T) {
	s := open(t)
	for i := range 51 {
		s.sagas(t, 1, "needs_attention", string(rune('A'+i)), "no room")
	}
	s.logIn(t, "viewer-token").get("/console/failures").wants(t, 200, "51 signups in 51 groups", "the 50 largest")
}
