package console_test

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// kill makes all events of a lane dead events.
func (s *site) kill(t *testing.T, lane contract.Lane, why string) {
	t.Helper()
	storetest.Exec(t, s.pool,
		fmt.Sprintf(
			"INSERT INTO outbox_dead_%[1]s (id, event_id, type, error) SELECT id, event_id, type, $1 FROM "+
				"outbox_event_%[1]s", lane), why)
}

func TestDeadLetters(t *testing.T) {
	s := open(t)
	b, viewer := s.logIn(t, "operator-token"), s.logIn(t, "viewer-token")
	viewer.get("/console/dead").wants(t, 200, "No dead events")
	r := s.signUp(t, "mina")
	s.kill(t, contract.Essential, hostile)
	s.kill(t, contract.NonEssential, "too large")
	p := viewer.get("/console/dead")
	p.wants(t, 200, "essential-1", "nonessential-1", "storage.provision", `href="/console/sagas?member_id=`+r.MemberID+
		`"`, "too large")
	p.harmless(t)
	p.lacks(t, "Requeue", "/requeue")

	dead := func() int { return storetest.Count(t, s.pool, "SELECT count(*) FROM outbox_dead_essential") }
	viewer.post("/console/dead/essential-1/requeue", "reason", "limit raised").wants(t, 403, "logged in as a viewer")
	b.post("/console/dead/essential-1/requeue").wants(t, 422, "must say why")
	b.post("/console/dead/essential-7/requeue", "reason", "x").wants(t, 404)
	b.post("/console/dead/strange/requeue", "reason", "x").wants(t, 404)
	if n := dead(); n != 1 {
		t.Fatalf("%d dead events, want the 1 that nobody requeued", n)
	}
	b.get("/console/dead").wants(t, 200, `action="/console/dead/essential-1/requeue"`)
	p = b.post("/console/dead/essential-1/requeue", "reason", "limit raised")
	p.wants(t, 200, "essential-1 will be published again", "nonessential-1")
	p.lacks(t, `id="d-essential-1"`)
	if n := dead(); n != 0 ||
		storetest.Count(t, s.pool, "SELECT count(*) FROM outbox_event_essential WHERE id > 1") != 1 {
		t.Errorf("%d dead events after a requeue", n)
	}
	if n := storetest.Count(t, s.pool,
		"SELECT count(*) FROM admin_audit WHERE actor = 'ann' AND action = 'requeue' AND reason = "+
			"'limit raised'"); n != 1 {
		t.Errorf("%d rows in the audit", n)
	}
	b.post("/console/dead/essential-1/requeue", "reason", "again").wants(t, 404)
	b.get("/console/dead?lane=essential").wants(t, 422, "/lane")
}

func TestDeadLettersInPages(t *testing.T) {
	s := open(t)
	for i := range 30 {
		s.signUp(t, fmt.Sprint("mina", i))
	}
	s.kill(t, contract.Essential, "too large")
	s.kill(t, contract.NonEssential, "too large")
	found := s.logIn(t, "viewer-token").pages("/console/dead", regexp.MustCompile(`<tr id="d-([a-z]+-[0-9]+)">`))
	if len(found) != 2 || len(found[0]) != 50 || len(found[1]) != 10 || found[0][0] != "essential-30" ||
		found[1][9] != "nonessential-1" {
		t.Errorf("pages of %v", found)
	}
	all := slices.Concat(found...)
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != 60 {
		t.Errorf("%d different ones, want 60", n)
	}
}
