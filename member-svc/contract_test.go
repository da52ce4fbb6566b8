package main

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/devstack/testenv/apitest"
	"github.com/signup-saga/signup-saga/devstack/testenv/pgproxy"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

func newMember(name string) string {
	return fmt.Sprintf(`{"username":%q,"password":%q}`, name, phrase)
}

// also starts another replica with changed settings.
func also(t *testing.T, env map[string]string, changes ...string) *svc {
	t.Helper()
	env = maps.Clone(env)
	for i := 0; i+1 < len(changes); i += 2 {
		env[changes[i]] = changes[i+1]
	}
	return start(t, env)
}

// The test sees every documented answer of the public listener, and no other.
func TestPublicContract(t *testing.T) {
	database := storetest.URL(t)
	proxy := pgproxy.New(t, database)
	env := environment(t, proxy.URL, "nats://127.0.0.1:1")
	env["SESSION_RATE_PER_MINUTE"] = "100000"
	s := start(t, env)
	c := apitest.New(t, s.public)
	members, sessions, me := "/v1/members", "/v1/sessions", "/v1/members/me"

	c.Call(200, "GET", s.public+"/openapi.json", "")
	c.Call(204, "GET", s.public+"/v1/challenges", "")
	created := c.Call(201, "POST", s.public+members, newMember("mina"), "Idempotency-Key", "k")
	c.Call(201, "POST", s.public+members, newMember("mina"), "Idempotency-Key", `"k"`)
	c.Call(409, "POST", s.public+members, newMember("MINA"))
	c.Call(422, "POST", s.public+members, newMember("nora"), "Idempotency-Key", "k")
	c.Call(422, "POST", s.public+members, newMember("no"))
	c.Call(400, "POST", s.public+members, newMember("nora"), "Idempotency-Key", strings.Repeat("k", 256))
	c.Refusals("POST", s.public+members)

	signup := created.Header.Get("Location")
	c.Call(200, "GET", s.public+signup, "")
	c.Call(404, "GET", s.public+signup+"0", "")

	c.Call(401, "POST", s.public+sessions, newMember("nora"))
	c.Refusals("POST", s.public+sessions)
	mine, ended := signIn(t, s, "mina"), signIn(t, s, "mina")
	c.Call(200, "POST", s.public+sessions, newMember("mina"))
	c.Call(204, "DELETE", s.public+sessions+"/current", "", ended...)
	c.Call(401, "DELETE", s.public+sessions+"/current", "", ended...)
	c.Call(200, "GET", s.public+me, "", mine...)
	c.Call(401, "GET", s.public+me, "", ended...)
	c.Call(401, "DELETE", s.public+me, leave, ended...)
	c.Call(401, "DELETE", s.public+me, `{"password":"x"}`, mine...)
	c.Refusals("DELETE", s.public+me, mine...)
	sessionsAnswer(t, c, s, also(t, env, "SESSION_RATE_PER_MINUTE", "1"))
	signUp(t, s, "olga")
	c.Call(202, "DELETE", s.public+me, leave, signIn(t, s, "olga")...)

	limited := also(t, env, "SIGNUP_RATE_PER_MINUTE", "1", "SESSION_RATE_PER_MINUTE", "1")
	c.Call(409, "POST", limited.public+members, newMember("mina"))
	c.Call(429, "POST", limited.public+members, newMember("mina"))
	c.Call(200, "POST", limited.public+sessions, newMember("mina"))
	c.Call(429, "POST", limited.public+sessions, newMember("mina"))
	c.Call(429, "DELETE", limited.public+me, leave, mine...)

	oneStreamTooMany(t, c, also(t, env, "MAX_STREAMS", "2"), 429, signup)
	oneStreamTooMany(t, c, also(t, env, "MAX_STREAMS", "1"), 503, signup)
	busy(t, c, also(t, env, "HASH_MEMORY_KIB", "65536", "HASH_TIME", "3", "HASH_CONCURRENCY", "1", "HASH_QUEUE_WAIT",
		"1ms"), mine)

	storetest.Exec(t, storetest.Connect(t, database),
		"UPDATE signup_saga SET state = 'ready', version = 2, due_at = NULL")
	c.Call(200, "GET", s.public+signup+"/events", "")
	c.Call(204, "GET", s.public+signup+"/events", "", "Last-Event-ID", "2")
	c.Call(404, "GET", s.public+signup+"0/events", "")

	proxy.Refuse.Store(true)
	proxy.BreakAll()
	c.Call(503, "POST", s.public+members, newMember("nora"))
	c.Call(503, "GET", s.public+signup, "")
	c.Call(503, "GET", s.public+signup+"/events", "")
	c.Call(503, "POST", s.public+sessions, newMember("mina"))
	c.Call(503, "DELETE", s.public+sessions+"/current", "", mine...)
	c.Call(503, "GET", s.public+me, "", mine...)
	c.Call(503, "GET", s.public+sessions, "", mine...)
	c.Call(503, "DELETE", s.public+sessions, "", mine...)
	c.Call(503, "DELETE", s.public+sessions+"/ses_"+strings.Repeat("0", 32), "", mine...)
	c.Call(503, "PUT", s.public+me+"/password", change(phrase, "a wholly new phrase"), mine...)
	c.Call(503, "DELETE", s.public+me, leave, mine...)
}

func change(old, changed string) string {
	return fmt.Sprintf(`{"old_password":%q,"new_password":%q}`, old, changed)
}

// sessionsAnswer tests a member's requests about their sessions and their password.
func sessionsAnswer(t *testing.T, c *apitest.Contract, s, limited *svc) {
	t.Helper()
	sessions, secret := s.public+"/v1/sessions", s.public+"/v1/members/me/password"
	signUp(t, s, "petra")
	mine, other, third := signIn(t, s, "petra"), signIn(t, s, "petra"), signIn(t, s, "petra")
	list := func() (ids []string) {
		for _, one := range c.Call(200, "GET", sessions, "", mine...).Body["items"].([]any) {
			if one := one.(map[string]any); one["current"] == false {
				ids = append(ids, one["id"].(string))
			}
		}
		return ids
	}
	if n := len(list()); n != 2 {
		t.Errorf("%d other sessions, want 2", n)
	}
	c.Call(204, "DELETE", sessions+"/"+list()[0], "", mine...) // the newest
	c.Call(404, "DELETE", sessions+"/ses_"+strings.Repeat("0", 32), "", mine...)
	for session, status := range map[*[]string]int{&mine: 200, &other: 200, &third: 401} {
		c.Call(status, "GET", s.public+"/v1/members/me", "", *session...)
	}
	c.Call(204, "DELETE", sessions+"?others=true", "", mine...)
	c.Call(422, "DELETE", sessions+"?others=maybe", "", mine...)
	if n := len(list()); n != 0 {
		t.Errorf("%d other sessions after they were ended", n)
	}
	signIn(t, s, "petra")
	c.Refusals("PUT", secret, mine...)
	c.Call(401, "PUT", secret, change("another password", "a wholly new phrase"), mine...)
	c.Call(422, "PUT", secret, change(phrase, "too short"), mine...)
	c.Call(204, "PUT", secret, change(phrase, "a wholly new phrase"), mine...)
	if n := len(list()); n != 0 {
		t.Errorf("%d other sessions after the password was changed", n)
	}
	c.Call(401, "POST", sessions, newMember("petra"))
	c.Call(200, "POST", sessions, `{"username":"petra","password":"a wholly new phrase"}`)
	c.Call(401, "PUT", limited.public+"/v1/members/me/password", change("x", "a wholly new phrase"), mine...)
	c.Call(429, "PUT", limited.public+"/v1/members/me/password", change("x", "a wholly new phrase"), mine...)
	c.Call(204, "DELETE", sessions, "", mine...)
	c.Call(401, "GET", sessions, "", mine...)
	c.Call(401, "DELETE", sessions, "", mine...)
	c.Call(401, "DELETE", sessions+"/ses_"+strings.Repeat("0", 32), "", mine...)
	c.Call(401, "PUT", secret, change(phrase, "a wholly new phrase"), mine...)
}

// oneStreamTooMany opens the last stream that is allowed, and then one more.
func oneStreamTooMany(t *testing.T, c *apitest.Contract, s *svc, want int, signup string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.public+signup+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	open, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Body.Close()
	c.Call(want, "GET", s.public+signup+"/events", "")
}

// busy makes each call that hashes while the only turn is taken.
func busy(t *testing.T, c *apitest.Contract, s *svc, mine []string) {
	t.Helper()
	var stop atomic.Bool
	var others sync.WaitGroup
	others.Go(func() {
		for !stop.Load() {
			call(t, "POST", s.public+"/v1/sessions", newMember("nora"))
		}
	})
	defer others.Wait()
	defer stop.Store(true)
	n := 0
	c.Until("busy", "POST", s.public+"/v1/members", func() string { n++; return newMember(fmt.Sprintf("nora%d", n)) })
	c.Call(200, "GET", s.public+"/v1/challenges", "")
	c.Until("busy", "POST", s.public+"/v1/sessions", func() string { return newMember("mina") })
	const secret = "/v1/members/me/password"
	c.Until("busy", "PUT", s.public+secret, func() string { return change("x", "a wholly new phrase") }, mine...)
	c.Until("busy", "DELETE", s.public+"/v1/members/me", func() string { return `{"password":"x"}` }, mine...)
}

// The test sees every documented answer of the admin listener, and no other.
func TestAdminContract(t *testing.T) {
	broker := testenv.NATS(t)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		return contract.StorageRejected,
			&contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
	})
	database := storetest.URL(t)
	proxy := pgproxy.New(t, database)
	env := environment(t, proxy.URL, broker.URL)
	s := start(t, env)
	c := apitest.New(t, s.admin)
	g := &groups{c: c, admin: s.admin + "/admin/v1", pool: storetest.Connect(t, database)}

	for _, path := range []string{"/livez", "/readyz", "/readyz?verbose", "/metrics", "/openapi.json"} {
		c.Call(200, "GET", s.admin+path, "")
	}
	created := signUp(t, s, "mina")
	s.awaitState(t, created, "needs_attention")
	g.answers(t)
	sagas := s.admin + "/admin/v1/sagas"
	c.Call(401, "GET", sagas, "")
	c.Call(422, "GET", sagas+"?limit=0", "", viewer...)
	page := c.Call(200, "GET", sagas+
		"?state=needs_attention&delayed=false&plan=free&error=rejected:no-room&username=mina"+
		"&created_after=2026-01-01T00:00:00Z&created_before=2999-01-01T00:00:00Z&limit=1", "", viewer...)
	one := sagas + "/" + page.Body["items"].([]any)[0].(map[string]any)["saga_id"].(string)
	c.Call(401, "GET", one, "")
	c.Call(404, "GET", one[:len(one)-1], "", viewer...)
	c.Call(200, "GET", sagas+"?member_id="+created["member_id"].(string), "", viewer...)
	etag := c.Call(200, "GET", one, "", viewer...).Header.Get("ETag")

	reason := `{"reason":"asked to"}`
	for _, act := range []string{"/retry", "/cancel"} {
		c.Call(401, "POST", one+act, reason)
		c.Call(403, "POST", one+act, reason, viewer...)
		c.Call(404, "POST", one[:len(one)-1]+act, reason, operator...)
		c.Call(412, "POST", one+act, reason, append([]string{"If-Match", `"1"`}, operator...)...)
		c.Call(400, "POST", one+act, reason, append([]string{"If-Match", "1"}, operator...)...)
		c.Call(422, "POST", one+act, `{"reason":" "}`, operator...)
		c.Refusals("POST", one+act, operator...)
	}
	c.Call(202, "POST", one+"/retry", reason, append([]string{"If-Match", etag}, operator...)...)
	c.Call(202, "POST", one+"/cancel", reason, operator...)
	c.Call(409, "POST", one+"/retry", reason, operator...)
	tooManyWrongTokens(c, also(t, env))

	proxy.Refuse.Store(true)
	proxy.BreakAll()
	c.Call(503, "GET", s.admin+"/readyz", "")
	c.Call(503, "GET", sagas, "", viewer...)
	g.withoutDatabase()
	c.Call(503, "GET", one, "", viewer...)
	c.Call(503, "POST", one+"/retry", reason, operator...)
	c.Call(503, "POST", one+"/cancel", reason, operator...)
}
