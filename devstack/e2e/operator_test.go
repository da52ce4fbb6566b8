package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/e2e/oracle"
)

// TestRejectedThenRetried brings a rejected signup to an operator, who repairs it.
func TestRejectedThenRetried(t *testing.T) {
	s := startStack(t, nil)
	s.provider("reject")
	b := newBook(t)
	p := s.crowd(b, 1, 1, s.env["MEMBER_URL"])[0]
	eventually(t, healLimit, "the refusal", func() bool { return s.stateOf(p) == "needs_attention" })

	list := s.call(http.MethodGet, s.env["ADMIN_URL"]+"/admin/v1/sagas?state=needs_attention", s.env["VIEWER_TOKEN"],
		"")
	items, _ := list.Body["items"].([]any)
	if len(items) != 1 {
		t.Fatalf("a viewer lists %+v, expected one saga", list)
	}
	id, _ := items[0].(map[string]any)["saga_id"].(string)
	saga := s.env["ADMIN_URL"] + "/admin/v1/sagas/" + id
	retry := func(token, body string) answer { return s.call(http.MethodPost, saga+"/retry", token, body) }
	const reason = `{"reason":"the provider has been told"}`

	refused := s.call(http.MethodGet, saga, s.env["VIEWER_TOKEN"], "")
	if last, _ := refused.Body["last_error"].(map[string]any); last["class"] != "rejected" {
		t.Errorf("last error %v, expected a rejection", refused.Body["last_error"])
	}
	for name, c := range map[string]struct {
		token, body string
		want        int
	}{
		"without a token":    {"", reason, http.StatusUnauthorized},
		"with a wrong token": {"wrong", reason, http.StatusUnauthorized},
		"as a viewer":        {s.env["VIEWER_TOKEN"], reason, http.StatusForbidden},
		"without a reason":   {s.env["ADMIN_TOKEN"], `{"reason":""}`, http.StatusUnprocessableEntity},
	} {
		if a := retry(c.token, c.body); a.Status != c.want {
			t.Errorf("retry %s: %d %v, want %d", name, a.Status, a.Body, c.want)
		}
	}
	now := s.call(http.MethodGet, saga, s.env["VIEWER_TOKEN"], "")
	if now.Header.Get("ETag") != refused.Header.Get("ETag") {
		t.Errorf("a refused retry changed the saga: %v", now.Body)
	}

	// The retry stays open for as long as the provider's outage lasts.
	s.provider("outage")
	first := retry(s.env["ADMIN_TOKEN"], reason)
	if first.Status != http.StatusAccepted || first.Body["state"] != "provisioning" || first.Body["generation"] != 2.0 {
		t.Fatalf("retry: %+v", first)
	}
	eventually(t, healLimit, "an attempt of the retry", func() bool {
		return s.count("STORAGE_DATABASE_URL",
			"SELECT count(*) FROM storage WHERE generation = 2 AND outage_attempts > 0") == 1
	})
	again := retry(s.env["ADMIN_TOKEN"], reason)
	if again.Status != http.StatusAccepted || again.Body["generation"] != 2.0 ||
		again.Header.Get("ETag") != first.Header.Get("ETag") {
		t.Errorf("the same retry while it is open: %+v, expected the saga as it is", again)
	}
	if n := s.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM admin_audit"); n != 1 {
		t.Errorf("%d rows in the audit, expected one: the retry that did something", n)
	}
	s.breakerShown("open")
	s.provider("none")
	eventually(t, healLimit, "the retried signup to be ready", func() bool { return s.stateOf(p) == "ready" })
	s.breakerShown("closed")
	if a := retry(s.env["ADMIN_TOKEN"], reason); a.Status != http.StatusConflict {
		t.Errorf("retry of a ready saga: %d %v", a.Status, a.Body)
	}
	s.audit(b, []person{p})
}

// breakerShown waits until the admin API shows the breaker in state want.
func (s *stack) breakerShown(want string) {
	s.t.Helper()
	eventually(s.t, healLimit, "the breaker to be shown "+want, func() bool {
		overview := s.call(http.MethodGet, s.env["ADMIN_URL"]+"/admin/v1/overview", s.env["VIEWER_TOKEN"], "")
		breaker, _ := overview.Body["breaker"].(map[string]any)
		return breaker["state"] == want && breaker["reported_at"] != nil
	})
}

// TestLostResponse loses the response to a signup. The client asks again and gets the same member.
func TestLostResponse(t *testing.T) {
	s := startStack(t, nil)
	proxy := startProxy(t, strings.TrimPrefix(s.env["MEMBER_URL"], "http://"))
	proxy.set(answering)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	body := `{"username":"unlucky","password":"a long enough password"}`
	headers := map[string]string{"Idempotency-Key": "unlucky-1"}
	if a, err := request(client, http.MethodPost, "http://"+proxy.addr()+"/v1/members", body, headers); err == nil {
		t.Fatalf("the answer came through: %+v", a)
	}
	lost := proxy.swallowed()
	if lost == "" {
		t.Fatal("there was no answer to lose")
	}
	second, err := request(client, http.MethodPost, s.env["MEMBER_URL"]+"/v1/members", body, headers)
	if err != nil {
		t.Fatal(err)
	}
	if second.Status != http.StatusCreated || second.Header.Get("Idempotent-Replayed") != "true" {
		t.Fatalf("the second request: %+v", second)
	}
	id, _ := second.Body["signup_id"].(string)
	member, _ := second.Body["member_id"].(string)
	if !contains(lost, id, member) {
		t.Errorf("the lost answer was\n%s\nbut the second one names %s and %s", lost, id, member)
	}
	p := person{Line: oracle.Line{Op: oracle.Accepted, Key: headers["Idempotency-Key"], Username: "unlucky",
		SignupID: id, MemberID: member}}
	b := newBook(t)
	if err := b.write(p.Line); err != nil {
		t.Fatal(err)
	}
	s.audit(b, []person{p})
}
