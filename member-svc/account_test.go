package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// signIn opens a session and returns its request header.
func signIn(t *testing.T, s *svc, name string) []string {
	t.Helper()
	status, _, body, raw := call(t, "POST", s.public+"/v1/sessions",
		fmt.Sprintf(`{"username":%q,"password":%q}`, name, phrase))
	if status != http.StatusOK || body["expires_at"] == nil || len(body) != 2 {
		t.Fatalf("sign in: %d %s", status, raw)
	}
	return []string{"Authorization", "Bearer " + body["token"].(string)}
}

var leave = `{"password":"` + phrase + `"}`

func TestAccounts(t *testing.T) {
	s := start(t, environment(t, storetest.URL(t), "nats://127.0.0.1:1"))
	created := signUp(t, s, "Mina")
	session := signIn(t, s, "mina") // while the storage is pending and NATS is down
	status, header, me, raw := call(t, "GET", s.public+"/v1/members/me", "", session...)
	if status != 200 || header.Get("Cache-Control") != "no-store" || len(me) != 7 ||
		me["member_id"] != created["member_id"] || me["username"] != "Mina" ||
		me["email"] != "m@example.org" || me["plan"] != "free" || me["created_at"] != created["created_at"] ||
		me["signup_id"] != created["signup_id"] ||
		me["storage"].(map[string]any)["status"] != "pending" {
		t.Errorf("%d %v %s", status, header, raw)
	}
	signIn := func(name, phrase string) string {
		return fmt.Sprintf(`{"username":%q,"password":%q}`, name, phrase)
	}
	for _, tc := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"wrong password", "POST", "/v1/sessions", signIn("mina", "another password"), nil, 401, "invalid_credentials"},
		{"unknown name", "POST", "/v1/sessions", signIn("nora", phrase), nil, 401, "invalid_credentials"},
		{"impossible name", "POST", "/v1/sessions", signIn("nö ra", phrase), nil, 401, "invalid_credentials"},
		{"unknown field", "POST", "/v1/sessions", `{"user":"mina"}`, nil, 400, "invalid_json"},
		{"no token", "GET", "/v1/members/me", "", nil, 401, "unauthorized"},
		{"foreign token", "GET", "/v1/members/me", "", []string{"Authorization", "Bearer x"}, 401, "unauthorized"},
		{"no bearer", "GET", "/v1/members/me", "",
			[]string{"Authorization", strings.Replace(session[1], "Bearer", "Basic", 1)}, 401, "unauthorized"},
		{"half a query", "DELETE", "/v1/sessions?others=true;x", "", session, 422, "validation_failed"},
		{"a broken query", "DELETE", "/v1/sessions?others=%zz", "", session, 422, "validation_failed"},
		{"leave without a session", "DELETE", "/v1/members/me", leave, nil, 401, "unauthorized"},
		{"leave with another password", "DELETE", "/v1/members/me", `{"password":"x"}`, session, 401,
			"invalid_credentials"},
		{"leave without a password", "DELETE", "/v1/members/me", `{}`, session, 401, "invalid_credentials"},
	} {
		status, _, body, raw := call(t, tc.method, s.public+tc.path, tc.body, tc.headers...)
		if status != tc.status || body["code"] != tc.code {
			t.Errorf("%s: %d %s", tc.name, status, raw)
		}
	}
	if status, _, _, raw := call(t, "DELETE", s.public+"/v1/sessions/current", "", session...); status != 204 ||
		raw != "" {
		t.Errorf("sign out: %d %s", status, raw)
	}
	for _, method := range []string{"GET /v1/members/me", "DELETE /v1/sessions/current"} {
		verb, path, _ := strings.Cut(method, " ")
		if status, _, _, raw := call(t, verb, s.public+path, "", session...); status != 401 {
			t.Errorf("%s after signing out: %d %s", method, status, raw)
		}
	}
}

func TestPasswordsAreLimited(t *testing.T) {
	env := environment(t, storetest.URL(t), "nats://127.0.0.1:1")
	env["SESSION_RATE_PER_MINUTE"] = "2"
	s := start(t, env)
	for _, want := range []int{401, 401, 429} {
		if status, header, _, raw := call(t, "POST", s.public+"/v1/sessions",
			`{"username":"mina","password":"x"}`); status != want || status == 429 && header.Get("Retry-After") == "" {
			t.Errorf("%d %s, want %d", status, raw, want)
		}
	}
}

func TestWithdrawal(t *testing.T) {
	broker := testenv.NATS(t)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		return contract.StorageProvisioned, nil
	})
	s := start(t, environment(t, storetest.URL(t), broker.URL))
	first := signUp(t, s, "mina", "Idempotency-Key", "k")
	s.awaitState(t, first, "ready")
	session, other := signIn(t, s, "mina"), signIn(t, s, "mina")
	status, header, body, raw := call(t, "DELETE", s.public+"/v1/members/me", leave, session...)
	if status != 202 || body["state"] != "withdrawing" || body["username"] != nil || header.Get("ETag") != `"3"` ||
		body["signup_id"] != first["signup_id"] {
		t.Fatalf("leave: %d %v %s", status, header, raw)
	}
	for _, session := range [][]string{session, other} {
		if status, _, _, raw := call(t, "GET", s.public+"/v1/members/me", "", session...); status != 401 {
			t.Errorf("a session outlives the membership: %d %s", status, raw)
		}
	}
	s.awaitState(t, first, "withdrawn")
	if _, header, got, raw := call(t, "GET", s.self(first), ""); got["username"] != nil ||
		got["storage"].(map[string]any)["status"] != "removed" || header.Get("Retry-After") != "" {
		t.Errorf("%v %s", header, raw)
	}
	if status, _, _, raw := call(t, "POST", s.public+"/v1/sessions", `{"username":"mina","password":"`+phrase+
		`"}`); status != 401 {
		t.Errorf("sign in afterwards: %d %s", status, raw)
	}
	if status, _, body, raw := call(t, "POST", s.public+"/v1/members", `{"username":"MINA","password":"`+phrase+
		`"}`); status != 409 || body["code"] != "username_taken" {
		t.Errorf("the name was taken again: %d %s", status, raw)
	}
	status, _, body, raw = call(t, "POST", s.public+"/v1/members",
		`{"username":"mina","password":"`+phrase+`","email":"m@example.org"}`, "Idempotency-Key", "k")
	if status != 409 || body["code"] != "username_taken" {
		t.Errorf("the key afterwards: %d %s", status, raw)
	}
}

func TestOperatorCancels(t *testing.T) {
	broker := testenv.NATS(t)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		return contract.StorageRejected,
			&contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
	})
	url := storetest.URL(t)
	s := start(t, environment(t, url, broker.URL))
	body := signUp(t, s, "mina")
	s.awaitState(t, body, "needs_attention")
	operator, viewer := []string{"Authorization", "Bearer operator-token"},
		[]string{"Authorization", "Bearer viewer-token"}
	_, _, list, _ := call(t, "GET", s.admin+"/admin/v1/sagas?username=mina", "", viewer...)
	cancel := s.admin + "/admin/v1/sagas/" + list["items"].([]any)[0].(map[string]any)["saga_id"].(string) + "/cancel"
	reason := `{"reason":"asked by letter"}`
	for _, tc := range []struct {
		name, url, body string
		headers         []string
		status          int
		code            any
	}{
		{"without a token", cancel, reason, nil, 401, "unauthorized"},
		{"by a viewer", cancel, reason, viewer, 403, "forbidden"},
		{"without a reason", cancel, `{"reason":" "}`, operator, 422, "validation_failed"},
		{"stale", cancel, reason, append([]string{"If-Match", `"1"`}, operator...), 412, "version_mismatch"},
		{"unknown", strings.Replace(cancel, "/cancel", "x/cancel", 1), reason, operator, 404, "not_found"},
		{"cancel", cancel, reason, append([]string{"If-Match", `"2"`}, operator...), 202, nil},
		{"again", cancel, reason, operator, 202, nil},
	} {
		if status, _, body, raw := call(t, "POST", tc.url, tc.body, tc.headers...); status != tc.status ||
			body["code"] != tc.code ||
			status == 202 && (body["generation"] != 2.0 || body["username"] != nil) {
			t.Errorf("%s: %d %s", tc.name, status, raw)
		}
	}
	s.awaitState(t, body, "withdrawn")
	if n := storetest.Count(t, storetest.Connect(t, url),
		`SELECT count(*) FROM admin_audit WHERE actor = 'ann' AND action = 'withdraw' AND reason = 'asked by letter'
AND before->>'state' = 'needs_attention' AND after->>'state' = 'withdrawing'`); n != 1 {
		t.Errorf("%d audit rows, want 1", n)
	}
}
