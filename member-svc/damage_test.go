package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// damaged is a signup whose saga's row is damaged.
type damaged struct {
	name, set            string // of the damage
	user, signup, member string
	saga                 string
	session              []string
}

// damage signs up one member for each damage, waits until all are ready, and then damages their rows.
func damage(t *testing.T, s *svc, pool *pgxpool.Pool, prefix string) []damaged {
	t.Helper()
	all := storetest.Damages()
	var people []damaged
	for i, name := range slices.Sorted(maps.Keys(all)) {
		d := damaged{name: name, set: all[name], user: fmt.Sprint(prefix, i)}
		body := signUp(t, s, d.user)
		d.signup, d.member = s.self(body), body["member_id"].(string)
		d.session = signIn(t, s, d.user)
		people = append(people, d)
	}
	testenv.Eventually(t, time.Minute, "everybody is ready", func() bool {
		return storetest.Count(t, pool, "SELECT count(*) FROM signup_saga s JOIN member m ON m.id = s.member_id "+
			"WHERE username LIKE $1 AND state <> 'ready'", prefix+"%") == 0
	})
	for i, d := range people {
		err := pool.QueryRow(t.Context(), `-- name: testSaga
SELECT id::text FROM signup_saga WHERE member_id = $1`, d.member).Scan(&people[i].saga)
		if err != nil {
			t.Fatal(err)
		}
		storetest.Exec(t, pool, "UPDATE signup_saga SET "+d.set+" WHERE member_id = $1", d.member)
	}
	return people
}

// Whatever the damage of a saga's row: no request gets 500 or 503, a member who leaves is erased, operators can
// act, other members are not affected, and the steps are taken back.
func TestErasureNeedsNoIntactSaga(t *testing.T) {
	broker, url := testenv.NATS(t), storetest.URL(t)
	pool := storetest.Connect(t, url)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		return contract.StorageProvisioned, nil
	})
	env := environment(t, url, broker.URL)
	env["SESSION_RATE_PER_MINUTE"], env["STUCK_AFTER"] = "100000", "1s"
	s := start(t, env)
	c := statuses{t: t}
	ask := func(what, method, url, body string, headers ...string) (int, map[string]any) {
		status, header, decoded, raw := call(t, method, url, body, headers...)
		if c.add(what, status, header, raw); status == http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", what, status, raw)
		}
		return status, decoded
	}
	leavers, cancelled := damage(t, s, pool, "leaver"), damage(t, s, pool, "cancelled")
	neighbour := signUp(t, s, "neighbour")
	s.awaitState(t, neighbour, "ready")
	storetest.Exec(t, pool, `UPDATE signup_saga SET state = 'provisioning', due_at = now(), commanded_at = '2026-01-01'
WHERE member_id = $1`, neighbour["member_id"])

	consoleStays(t, s, &c, cancelled)
	for _, d := range cancelled {
		ask(d.name+": retry", "POST", s.admin+"/admin/v1/sagas/"+d.saga+"/retry", `{"reason":"x"}`, operator...)
	}
	status, group := ask("retry of a group", "POST", s.admin+"/admin/v1/retries",
		`{"reason":"x","filter":{},"rate_per_second":200,"stop_after_failures":1000}`, operator...)
	if status != http.StatusAccepted && status != http.StatusCreated {
		t.Fatalf("%d %v", status, group)
	}
	testenv.Eventually(t, 30*time.Second, "the retry of the group ends", func() bool {
		_, got := ask("group", "GET", s.admin+"/admin/v1/retries/"+group["id"].(string), "", operator...)
		return got["state"] == "finished"
	})
	s.awaitState(t, neighbour, "ready")

	for _, d := range leavers {
		signIn(t, s, d.user)
		ask(d.name+": me", "GET", s.public+"/v1/members/me", "", d.session...)
		ask(d.name+": signup", "GET", d.signup, "")
		status, view := ask(d.name+": leave", "DELETE", s.public+"/v1/members/me", leave, d.session...)
		shown := view["state"] == "withdrawing" || view["state"] == "withdrawn"
		if status != http.StatusAccepted || !shown || view["username"] != nil {
			t.Errorf("%s: left with %d %v", d.name, status, view)
		}
	}
	for _, d := range cancelled {
		path := s.admin + "/admin/v1/sagas/" + d.saga + "/cancel"
		status, view := ask(d.name+": cancel", "POST", path, `{"reason":"x"}`, operator...)
		if status != http.StatusAccepted || view["username"] != nil {
			t.Errorf("%s: cancelled with %d %v", d.name, status, view)
		}
	}
	if n := storetest.Count(t, pool, "SELECT count(*) FROM member WHERE username IS NOT NULL"); n != 1 {
		t.Errorf("%d are not erased", n-1)
	}
	consoleStays(t, s, &c, leavers)
	for _, d := range slices.Concat(leavers, cancelled) { // the second retry continues without the unknown step
		for range 2 {
			ask(d.name+": retry", "POST", s.admin+"/admin/v1/sagas/"+d.saga+"/retry", `{"reason":"x"}`, operator...)
		}
	}
	var left string
	gone := func() bool {
		err := pool.QueryRow(t.Context(), `-- name: testLeft
SELECT coalesce(string_agg(to_jsonb(s)::text, E'\n'), '') FROM signup_saga s
WHERE state <> 'withdrawn' AND member_id <> $1`, neighbour["member_id"]).Scan(&left)
		return err == nil && left == ""
	}
	testenv.Eventually(t, 30*time.Second, "everything is taken back", func() bool {
		if !gone() {
			t.Log(left)
		}
		return left == ""
	})
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, `"level":"ERROR"`) && !strings.Contains(line, "SMTP") {
			t.Error(line)
		}
	}
}

// consoleStays requests every page and list that shows damaged sagas.
func consoleStays(t *testing.T, s *svc, c *statuses, people []damaged) {
	t.Helper()
	entered := browse(t, s.admin+"/console/login", url.Values{"token": {"operator-token"}})
	session, _, _ := strings.Cut(entered.header.Get("Set-Cookie"), ";")
	pages := []string{
		"/console/", "/console/failures", "/console/retries", "/console/sagas", "/console/sagas?delayed=true",
		"/metrics", "/admin/v1/overview", "/admin/v1/failures", "/admin/v1/sagas?delayed=true&limit=100",
		"/admin/v1/sagas?state=needs_attention",
	}
	for _, d := range people {
		pages = append(pages, "/console/sagas/"+d.saga,
			"/admin/v1/sagas/"+d.saga, "/admin/v1/sagas?member_id="+d.member)
	}
	for _, path := range pages {
		p := browse(t, s.admin+path, nil, "Cookie", session, "Authorization", "Bearer operator-token")
		c.add(path, p.status, p.header, p.text)
		if p.status != http.StatusOK {
			t.Errorf("%s: %d", path, p.status)
		}
	}
	path, seen := "/admin/v1/sagas?limit=7", 0
	for path != "" { // the whole list
		_, _, page, raw := call(t, "GET", s.admin+path, "", operator...)
		items, _ := page["items"].([]any)
		if seen += len(items); items == nil || seen > 3*len(people) {
			t.Fatalf("after %d: %s", seen, raw)
		}
		next, more := page["next_cursor"].(string)
		if path = ""; more && next != "" {
			path = "/admin/v1/sagas?limit=7&cursor=" + next
		}
	}
	if seen != 2*len(people)+1 {
		t.Errorf("%d of %d are listed", seen, 2*len(people)+1)
	}
}
