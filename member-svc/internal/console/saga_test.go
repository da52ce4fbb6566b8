package console_test

import (
	"strings"
	"testing"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// inTurn checks that texts are on a page, in this order.
func (p page) inTurn(t *testing.T, texts ...string) {
	t.Helper()
	rest := p.text
	for _, text := range texts {
		_, after, found := strings.Cut(rest, text)
		if !found {
			t.Fatalf("%s: no %q in %s", p.path, text, rest)
		}
		rest = after
	}
}

func TestSagaShowsWhatHappened(t *testing.T) {
	s := open(t)
	r := s.signUp(t, "mina")
	failed := reply(saga.AttemptFailed, 1, "disk is slow")
	failed.Attempt = 3
	s.apply(t, r.ID, failed)
	b := s.logIn(t, "viewer-token")
	b.get("/console/sagas/"+r.ID).inTurn(t, "data-countdown", "Signed up", "An attempt failed", "after ", "attempt 3",
		"disk is slow", "No answer yet")
	s.apply(t, r.ID, reply(saga.Rejected, 1, "no room"))
	s.apply(t, r.ID, saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "room made"})
	s.apply(t, r.ID, reply(saga.Rejected, 1, "no room for ever"))
	s.apply(t, r.ID, reply(saga.Provisioned, 2, ""))
	s.apply(t, r.ID, saga.Event{Kind: saga.Withdraw})
	storetest.Exec(t, s.pool,
		"INSERT INTO saga_event (saga_id, kind, state, version, generation) VALUES ($1, 'from_the_future', "+
			"'withdrawing', 9, 9)", r.ID)
	storetest.Exec(t, s.pool,
		"UPDATE saga_event e SET at = '2026-01-02T03:04:05Z'::timestamptz + 1.5 * interval '1 s' * (SELECT count(*) "+
			"FROM saga_event WHERE id < e.id) WHERE saga_id = $1", r.ID)
	p := b.get("/console/sagas/" + r.ID)
	p.wants(t, 200, "<h1>A member who has left <", r.MemberID, r.SignupID)
	p.inTurn(t, "What happened", "Signed up", "An attempt failed", "Answer: refused", "no room", "Retried by ann",
		"generation 2", "room made",
		"Answer: refused for good – not expected, ignored",
		"Answer: provisioned", "after 1.5 s", "2026-01-02 03:04:12 UTC", "The member left", "from_the_future",
		`"kind": "signed_up"`, `"actor": "ann"`)
	p.wants(t, 200, "curl -s ", "/admin/v1/sagas/"+r.ID+"/retry", "Bearer $ADMIN_TOKEN", `-H 'If-Match: "5"'`,
		"/console/audit?saga_id="+r.ID)
	b.get("/console/sagas/"+uuid.Must(uuid.NewV4()).String()).wants(t, 404, "no such resource")
	b.get("/console/sagas/..%2Foverview").wants(t, 404)
}

func TestSagaShowsItsErrorInFull(t *testing.T) {
	s := open(t)
	r := s.fail(t, "mina", hostile)
	for _, token := range []string{"viewer-token", "operator-token"} {
		p := s.logIn(t, token).get("/console/sagas/" + r.ID)
		p.harmless(t)
		p.wants(t, 200, "rejected: "+hostile, "All of this kind")
	}
	p := s.logIn(t, "operator-token").get("/console/sagas")
	p.wants(t, 200, "<script>alert(1)</script> …")
	p.lacks(t, "onmouseover")
	storetest.Exec(t, s.pool, "UPDATE member SET username = $1", hostile)
	s.logIn(t, "operator-token").get("/console/sagas/" + r.ID).harmless(t)
	s.logIn(t, "operator-token").get("/console/sagas").harmless(t)
}

func TestSagaShowsItsTrace(t *testing.T) {
	s := open(t)
	r := s.signUp(t, "mina")
	b := s.logIn(t, "viewer-token")
	b.get("/console/sagas/"+r.ID).lacks(t, "<dt>Trace</dt>")
	storetest.Exec(t, s.pool,
		"UPDATE signup_saga SET traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'")
	b.get("/console/sagas/"+r.ID).wants(t, 200, `<code id="trace-id">0af7651916cd43dd8448eb211c80319c</code>`)
}

func TestOperatorRetriesASaga(t *testing.T) {
	s := open(t)
	r := s.fail(t, "mina", "full")
	path := "/console/sagas/" + r.ID
	b, viewer := s.logIn(t, "operator-token"), s.logIn(t, "viewer-token")
	b.get(path).wants(t, 200, `action="`+path+`/retry"`, `name="version" value="2"`)
	viewer.get(path).lacks(t, `action="`+path, `name="reason"`, `name="version"`)
	viewer.post(path+"/retry", "version", "2", "reason", "x").wants(t, 403, "logged in as a viewer")
	b.post(path+"/retry", "version", "2").wants(t, 422, "must say why")
	b.post(path+"/retry", "reason", "x").wants(t, 422, "the version that the page showed")
	b.post(path+"/retry", "version", "1", "reason", "x").wants(t, 412, "It changed after this page was loaded")
	s.wantState(t, r.ID, "needs_attention", 0)

	p := b.post(path+"/retry", "version", "2", "reason", hostile)
	p.wants(t, 200, "Retried by ann", "retry under way")
	p.harmless(t)
	p.lacks(t, path+`/retry"`)
	if p.path != path {
		t.Errorf("retried, and led to %s", p.path)
	}
	s.wantState(t, r.ID, "provisioning", 1)
	b.post(path+"/retry", "version", "2", "reason", "x").wants(t, 412)
	s.apply(t, r.ID, reply(saga.Provisioned, 2, ""))
	b.post(path+"/retry", "version", "4", "reason", "x").wants(t, 409, "only a saga that needs attention")
	s.wantState(t, r.ID, "ready", 1)
}

func TestOperatorWithdrawsAMember(t *testing.T) {
	s := open(t)
	r := s.signUp(t, "mina")
	path := "/console/sagas/" + r.ID
	b, viewer := s.logIn(t, "operator-token"), s.logIn(t, "viewer-token")
	b.get(path).wants(t, 200, `action="`+path+`/cancel"`, "cannot be undone")
	viewer.get(path).lacks(t, "Withdraw")
	viewer.post(path+"/cancel", "version", "1", "reason", "asked by letter", "sure", "yes").wants(t, 403)
	b.post(path+"/cancel", "version", "1", "reason", "asked by letter").wants(t, 422, "tick the box")
	b.post(path+"/cancel", "reason", "asked by letter", "sure", "yes").wants(t, 422, "the version that the page showed")
	b.post(path+"/cancel", "version", "7", "reason", "asked by letter", "sure", "yes").wants(t, 412)
	s.wantState(t, r.ID, "provisioning", 0)

	b.post(path+"/cancel", "version", "1", "reason", "asked by letter", "sure", "yes").wants(t, 200,
		"A member who has left", "Withdrawn by ann", "asked by letter")
	s.wantState(t, r.ID, "withdrawing", 1)
	b.get(path).lacks(t, `action="`+path)
	s.apply(t, r.ID, reply(saga.Rejected, 2, "busy"))
	b.get(path).wants(t, 200, "withdrawal needs attention", `action="`+path+`/retry"`)
	if n := storetest.Count(t, s.pool, "SELECT count(*) FROM member WHERE username IS NOT NULL"); n != 0 {
		t.Errorf("the name is kept")
	}
}

// During an outage of the provider, every waiting signup shows the reason, even one that was never tried.
// Signups that are settled do not.
func TestSagaThatWaitsSaysWhyTheProviderIsAway(t *testing.T) {
	s := open(t)
	never, tried, ready := s.signUp(t, "mina"), s.signUp(t, "nora"), s.signUp(t, "olga")
	s.apply(t, tried.ID, reply(saga.AttemptFailed, 1, "disk is slow"))
	s.apply(t, ready.ID, reply(saga.Provisioned, 1, ""))
	b := s.logIn(t, "viewer-token")
	b.get("/console/sagas/"+never.ID).lacks(t, "Last error")
	storetest.Exec(t, s.pool, `UPDATE provider_report SET state = 'open', changed_at = now(), reported_at = now(),
		error_class = 'outage', error_message = 'the provider has no identity', error_fingerprint = 'outage:the'`)
	for _, r := range []string{never.ID, tried.ID} {
		p := b.get("/console/sagas/" + r)
		p.wants(t, 200, "Last error", "outage: the provider has no identity", `?state=provisioning">All that wait`)
	}
	b.get("/console/sagas?state=provisioning").inTurn(t, "nora", "no identity", "mina", "no identity")
	b.get("/console/sagas/"+ready.ID).lacks(t, "Last error")
	b.get("/console/").wants(t, 200, "The storage provider is away: the provider has no identity.")
	storetest.Exec(t, s.pool, "UPDATE provider_report SET state = 'closed'")
	b.get("/console/sagas/"+never.ID).lacks(t, "Last error")
	b.get("/console/sagas/"+tried.ID).wants(t, 200, "disk is slow")
}
