package console_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

var formID = regexp.MustCompile(`name="id" value="([0-9a-f-]{36})"`)

// group returns the form of a group retry: its fields as they are shown, and a reason.
func (b *browser) group(filter, reason string, more ...string) []string {
	b.t.Helper()
	found := formID.FindStringSubmatch(b.get("/console/retries/new" + filter).raw)
	if found == nil {
		b.t.Fatalf("%s: no form", filter)
	}
	return append(more, "id", found[1], "reason", reason, "rate_per_second", "10", "stop_after_failures", "10")
}

func (s *site) retries(t *testing.T) int {
	t.Helper()
	return storetest.Count(t, s.pool, "SELECT count(*) FROM group_retry")
}

// step lets a second pass and takes a step of every group retry that is due.
func (s *site) step(t *testing.T) {
	t.Helper()
	storetest.Exec(t, s.pool, "UPDATE group_retry SET due_at = now() WHERE due_at IS NOT NULL")
	for more := true; more; {
		var err error
		if more, err = s.store.StepRetry(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOperatorRetriesAGroup(t *testing.T) {
	s := open(t)
	b, viewer := s.logIn(t, "operator-token"), s.logIn(t, "viewer-token")
	viewer.get("/console/retries").wants(t, 200, "No group has been retried.")
	s.sagas(t, 3, "needs_attention", "full", "no room")
	s.sagas(t, 1, "needs_attention", "other", "something else")
	const filter = "?error=full&plan=free"
	b.get("/console/retries/new"+filter).wants(t, 200, "<strong>3 signups</strong>", "Retry 3 signups",
		`action="/console/retries?error=full&plan=free"`, `href="/console/sagas?error=full&plan=free"`)

	p := b.post("/console/retries"+filter, b.group(filter, "room made")...)
	p.wants(t, 200, "Retry of 3 signups", "released 0 of 3: 0 succeeded, 0 failed again, 0 open; 3 left", "ann",
		"room made", "Cancel this retry", "at most 10 signups per second, until 10 have failed again")
	id := strings.TrimPrefix(p.path, "/console/retries/")
	if n := storetest.Count(t, s.pool,
		`SELECT count(*) FROM admin_audit WHERE actor = 'ann' AND action = 'retry_group' AND subject = 'retry ' || $1
		    AND reason = 'room made' AND after->'filter' = '{"error":"full","plan":"free"}'`, id); n != 1 {
		t.Errorf("%d rows in the audit", n)
	}
	s.step(t)
	var first string
	err := s.pool.QueryRow(t.Context(),
		"-- name: testReleased\nSELECT id::text FROM signup_saga WHERE state = 'provisioning'").Scan(&first)
	if err != nil {
		t.Fatal(err)
	}
	s.apply(t, first, reply("provisioned", 2, ""))
	s.step(t)
	const now = "released 3 of 3: 1 succeeded, 0 failed again, 2 open; 0 left"
	for _, who := range []*browser{b, viewer} {
		who.get(p.path).wants(t, 200, now, `<progress aria-label="Progress" max="3" value="1">`, "running")
		who.get("/console/retries").wants(t, 200, now, "room made", `href="`+p.path+`"`, `id="retry-`+id)
	}
	viewer.get(p.path).looksOnly(t)
	viewer.get("/console/retries").looksOnly(t)
}

// However often a form is sent, it starts one retry. That also holds for a form that is sent again because the
// answer was lost.
func TestDoubleClickBeginsOneRetry(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "operator-token")
	s.sagas(t, 3, "needs_attention", "full", "no room")
	form := b.group("?error=full", "room made")
	paths := make(chan string, 4)
	for range 4 {
		go func() { // the path shows errors
			answer, err := b.http.Do(b.form("/console/retries?error=full", form...))
			if err != nil {
				paths <- err.Error()
				return
			}
			_ = answer.Body.Close()
			paths <- answer.Request.URL.Path
		}()
	}
	for range 4 {
		if path := <-paths; path != "/console/retries/"+form[1] {
			t.Errorf("one click leads to %s", path)
		}
	}
	if n := s.retries(t); n != 1 {
		t.Errorf("%d retries", n)
	}
}

func TestMistakesAreShownOnTheForm(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "operator-token")
	s.sagas(t, 3, "needs_attention", "full", "no room")
	const kept = `say "<b>why</b>"`
	for _, tc := range []struct{ field, value, want string }{
		{"reason", " ", "must say why"},
		{"rate_per_second", "201", "must be 1 to 200"},
		{"rate_per_second", "0", "must be 1 to 200"},
		{"rate_per_second", "many", "must be 1 to 200"},
		{"stop_after_failures", "", "must be 1 to 100000"},
	} {
		form := b.group("?error=full", kept, tc.field, tc.value)
		p := b.post("/console/retries?error=full", form...)
		p.wants(t, 422, tc.want, `aria-describedby="hint-`+tc.field+" wrong-"+tc.field+`" aria-invalid="true"`,
			form[len(form)-7], "Retry 3 signups")
		if p.wants(t, 422, tc.value); tc.field != "reason" {
			p.wants(t, 422, kept)
		}
		p.lacks(t, "This cannot start")
		if strings.Contains(p.raw, "<b>") {
			t.Error("what was typed is not escaped")
		}
	}
	for filter, want := range map[string]string{
		"?state=ready": "only sagas that need attention", "?username=mina": "is not a filter",
		"?created_after=noon": "cannot be read",
	} {
		p := b.get("/console/retries/new" + filter)
		p.wants(t, 200, "This cannot start", want)
		p.lacks(t, "<form class", "Nothing that matches")
		b.post("/console/retries"+filter, "reason", "x", "rate_per_second", "1", "stop_after_failures", "1").wants(t,
			422, "This cannot start", want)
	}
	b.get("/console/retries/new?error=none").wants(t, 200, "There is nothing to retry.")

	storetest.Exec(t, s.pool, `INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, matched, remaining)
SELECT gen_random_uuid(), 'bob', 'x', '{}', 1, 1, 0, 0 FROM generate_series(1, 10)`)
	p := b.post("/console/retries?error=full", b.group("?error=full", kept)...)
	p.wants(t, 409, "10 group retries are running", kept, "Retry 3 signups")
	if n := s.retries(t); n != 10 {
		t.Errorf("%d retries, want the 10 of bob", n)
	}
}

func TestViewersRetryNoGroup(t *testing.T) {
	s := open(t)
	s.sagas(t, 3, "needs_attention", "full", "no room")
	viewer := s.logIn(t, "viewer-token")
	viewer.get("/console/retries/new?error=full").wants(t, 403, "logged in as a viewer")
	viewer.post("/console/retries?error=full", "reason", "x", "rate_per_second", "10", "stop_after_failures",
		"10").wants(t, 403, "logged in as a viewer")
	if n := s.retries(t); n != 0 {
		t.Errorf("%d retries", n)
	}
	b := s.logIn(t, "operator-token")
	one := b.post("/console/retries?error=full", b.group("?error=full", "room made")...).path
	viewer.post(one+"/cancel").wants(t, 403, "logged in as a viewer")
	viewer.get(one).wants(t, 200, "running")
}

func TestOperatorCancelsARetry(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "operator-token")
	s.sagas(t, 3, "needs_attention", "full", "no room")
	for reason, kept := range map[string]string{"": "not given", "the wrong group": "the wrong group"} {
		one := b.post("/console/retries?error=full", b.group("?error=full", "room made")...).path
		p := b.post(one+"/cancel", "reason", reason)
		p.wants(t, 200, "cancelled", "by an operator", "released 0 of 3", "3 left")
		p.lacks(t, "Cancel this retry")
		if n := storetest.Count(t, s.pool,
			"SELECT count(*) FROM admin_audit WHERE actor = 'ann' AND action = 'cancel_retry' AND reason = $1",
			kept); n != 1 || p.path != one {
			t.Errorf("%d rows in the audit, at %s", n, p.path)
		}
	}
	s.step(t)
	ended := b.post("/console/retries?error=none", "reason", "x", "rate_per_second", "1", "stop_after_failures",
		"1").path
	s.step(t)
	b.get(ended).wants(t, 200, "Retry of 0 signups", "finished", "all were released")
	b.post(ended+"/cancel").wants(t, 409, "the retry has ended")
	b.get("/console/retries/none").wants(t, 404)
}

func TestRetriesInPages(t *testing.T) {
	s := open(t)
	storetest.Exec(t, s.pool,
		`INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, state, stopped_because, matched,
		    released, failed, remaining, finished_at, due_at)
SELECT ('00000000-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid, 'bob', $1::text, jsonb_build_object('error',
    $1::text), 1, 2, 'stopped', CASE WHEN i % 2 = 0 THEN 'failures' ELSE 'unsettled' END, 300, 2, 2, 298, now(), NULL
FROM generate_series(1, 60) i`, hostile)
	b := s.logIn(t, "operator-token")
	p := b.get("/console/retries")
	p.wants(t, 200, "automatically: 2 failed again, and the limit is 2",
		"automatically: ten seconds' worth of releases wait for an answer", hostile, "released 2 of 300")
	p.harmless(t)
	found := b.pages("/console/retries", regexp.MustCompile(`<tr id="retry-[0-9a-f-]*?([0-9]+)">`))
	if len(found) != 2 || len(found[0]) != 50 || len(found[1]) != 10 || found[0][0] <= found[0][49] ||
		found[0][49] <= found[1][0] {
		t.Errorf("pages %v", found)
	}
	b.get("/console/retries?cursor=x").wants(t, 422, "/cursor")

	p = b.get("/console/retries/00000000-0000-7000-8000-" + fmt.Sprintf("%012d", 60))
	p.wants(t, 200, "automatically: 2 failed again", "retry the rest", hostile, "298 left")
	p.harmless(t)
}

// In a shell the command does what it says, whatever was typed into the form.
func TestRetryAsCurl(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "operator-token")
	s.sagas(t, 1, "needs_attention", "full", "no room")
	p := b.post("/console/retries?error=full", b.group("?error=full", "it's $HOME `here`")...)
	p.wants(t, 200,
		`curl -s "$ADMIN_URL/admin/v1/retries" -H "Authorization: Bearer $ADMIN_TOKEN" --json `+
			`'{"filter":{"error":"full"},"reason":"it'\''s $HOME `+"`here`"+`","rate_per_second":10,`+
			`"stop_after_failures":10}'`,
		`curl -s "$ADMIN_URL/admin/v1`+strings.TrimPrefix(p.path, "/console")+`"`)
}
