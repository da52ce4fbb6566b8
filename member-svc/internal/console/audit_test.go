package console_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

func TestAudit(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "viewer-token")
	b.get("/console/audit").wants(t, 200, "No action matches")
	one, two := s.fail(t, "one", "full"), s.fail(t, "two", "full")
	s.apply(t, one.ID, saga.Event{Kind: saga.Retried, Actor: "ann", Reason: hostile})
	s.apply(t, two.ID, saga.Event{Kind: saga.Withdraw, Actor: "bob", Reason: "asked by letter"})
	const group = "0199e5c0-5b1c-7a10-9c7e-6a0d9c1e2f44"
	storetest.Exec(t, s.pool, "ALTER TABLE admin_audit DISABLE TRIGGER audit_is_kept")
	storetest.Exec(t, s.pool, "UPDATE admin_audit SET subject = 'retry "+group+"' WHERE saga_id = $1", one.ID)
	s.kill(t, contract.Essential, "too large")
	if _, err := s.store.Requeue(t.Context(), store.DeadID{Lane: "essential", Row: 1}, "ann",
		"limit raised"); err != nil {
		t.Fatal(err)
	}
	p := b.get("/console/audit")
	p.wants(t, 200, "/console/sagas/"+one.ID, "/console/retries/"+group, "needs attention → provisioning",
		"needs attention → withdrawing", `"version":3`)
	p.inTurn(t, "<th scope=\"row\">ann", "requeued", "event ", "limit raised", "bob", "withdrew", "asked by letter",
		"ann", "retried")
	p.harmless(t)
	for query, want := range map[string][]string{
		"?actor=bob":                      {"2"},
		"?action=requeue":                 {"3"},
		"?actor=ann&action=retried":       {"1"},
		"?saga_id=" + one.ID + "&action=": {"1"},
		"?saga_id=nonsense":               {},
		"?actor=nobody&cursor=":           {},
	} {
		if found := b.pages("/console/audit"+query, auditRow); len(found) != 1 || !slices.Equal(found[0], want) &&
			len(want)+len(found[0]) > 0 {
			t.Errorf("%s: %v, want %v", query, found, want)
		}
	}
	b.get("/console/audit?actor=%00").wants(t, 422, "cannot be read", `aria-invalid="true"`)
	b.get("/console/audit?who=ann").wants(t, 422, "/who")
	b.get("/console/audit?action="+"undone").wants(t, 200, "No action matches")
}

var auditRow = regexp.MustCompile(`<tr id="a-([0-9]+)">`)

func TestAuditInPages(t *testing.T) {
	s := open(t)
	id := s.sagas(t, 1, "ready", "", "")[0]
	storetest.Exec(t, s.pool,
		"INSERT INTO admin_audit (actor, action, saga_id, reason, before, after) SELECT 'ann', 'retried', $1, 'x', "+
			"'{}', '{}' FROM generate_series(1, 120)", id)
	found := s.logIn(t, "viewer-token").pages("/console/audit?actor=ann", auditRow)
	all := slices.Concat(found...)
	if len(found) != 3 || len(all) != 120 || all[0] != "120" || all[119] != "1" {
		t.Errorf("pages of %v", found)
	}
}
