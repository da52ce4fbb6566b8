package main

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/devstack/testenv/apitest"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

var (
	operator = []string{"Authorization", "Bearer operator-token"}
	viewer   = []string{"Authorization", "Bearer viewer-token"}
)

// groups makes operators' calls about more than one saga. One saga needs attention.
type groups struct {
	c     *apitest.Contract
	admin string
	pool  *pgxpool.Pool

	retry, dead string // paths of one of each
}

func (g *groups) answers(t *testing.T) {
	t.Helper()
	for _, list := range []string{"/overview", "/failures", "/retries", "/outbox/dead", "/audit"} {
		g.c.Call(401, "GET", g.admin+list, "")
		g.c.Call(422, "GET", g.admin+list+"?color=red", "", viewer...)
	}
	overview := g.c.Call(200, "GET", g.admin+"/overview", "", viewer...)
	if counts := overview.Body["counts"].(map[string]any); counts["needs_attention"] != 1.0 {
		t.Errorf("overview counts %v", counts)
	}
	failures := g.c.Call(200, "GET", g.admin+"/failures?limit=10", "", viewer...)
	if failures.Body["failures"] != 1.0 ||
		failures.Body["items"].([]any)[0].(map[string]any)["fingerprint"] != "rejected:no-room" {
		t.Errorf("failures: %v", failures.Body)
	}
	g.retries(t)
	g.deadEvents(t)

	one := g.c.Call(200, "GET", g.admin+"/audit?actor=ann&action=requeue&limit=1", "", viewer...)
	if rows := one.Body["items"].([]any); len(rows) != 1 || rows[0].(map[string]any)["reason"] != "limit raised" {
		t.Errorf("audit: %v", one.Body)
	}
	first := g.c.Call(200, "GET", g.admin+"/audit?limit=1", "", viewer...)
	g.c.Call(200, "GET", g.admin+"/audit?limit=1&saga_id=0199e5c0-2f4b-7d10-8b7e-6a0d9c1e2f33&cursor="+
		first.Body["next_cursor"].(string), "", viewer...)
	g.c.Call(422, "GET", g.admin+"/audit?cursor=0", "", viewer...)
	g.c.Call(422, "GET", g.admin+"/audit?limit=1&limit=2", "", viewer...)
}

func (g *groups) retries(t *testing.T) {
	t.Helper()
	retries := g.admin + "/retries"
	const some = `{"filter":{"error":"rejected:no-room","plan":"free"},"reason":"room made"`
	g.c.Call(401, "POST", retries, some+"}")
	g.c.Call(403, "POST", retries, some+"}", viewer...)
	g.c.Refusals("POST", retries, operator...)
	for _, wrong := range []string{
		`{"reason":"x"}`, `{"filter":{}}`, `{"filter":{},"reason":"x","rate_per_second":0}`,
		`{"filter":{},"reason":"x","stop_after_failures":0}`,
		`{"filter":{},"reason":"x","id":"0199e5c0-5b1c-4a10-9c7e-6a0d9c1e2f44"}`,
		`{"filter":{},"reason":"x","id":"{0199e5c0-5b1c-7a10-9c7e-6a0d9c1e2f44}"}`,
		`{"filter":{"state":"ready"},"reason":"x"}`, `{"filter":{"username":"mina"},"reason":"x"}`,
		`{"filter":{"error":""},"reason":"x"}`,
	} {
		g.c.Call(422, "POST", retries, wrong, operator...)
	}
	if dry := g.c.Call(200, "POST", retries, `{"filter":{"state":"needs_attention"},"dry_run":true}`,
		operator...); dry.Body["matched"] != 1.0 {
		t.Errorf("dry run: %v", dry.Body)
	}
	mine := some + `,"rate_per_second":5,"stop_after_failures":2,"id":"0199e5c0-5b1c-7a10-9c7e-6a0d9c1e2f44"}`
	begun := g.c.Call(202, "POST", retries, mine, operator...)
	g.retry = strings.TrimSuffix(g.admin, "/admin/v1") + begun.Header.Get("Location")
	testenv.Eventually(t, 20*time.Second, "the end of the retry", func() bool {
		now := g.c.Call(200, "GET", g.retry, "", viewer...).Body
		return now["state"] == "finished" && now["failed"] == 1.0
	})
	g.c.Call(200, "GET", retries+"?limit=1", "", viewer...)
	g.c.Call(401, "GET", g.retry, "")
	g.c.Call(404, "GET", g.retry[:len(g.retry)-1], "", viewer...)
	g.c.Call(401, "POST", g.retry+"/cancel", "")
	g.c.Call(403, "POST", g.retry+"/cancel", "", viewer...)
	g.c.Call(404, "POST", g.retry[:len(g.retry)-1]+"/cancel", "", operator...)
	g.c.Call(409, "POST", g.retry+"/cancel", "", operator...)
	g.c.Call(422, "POST", g.retry+"/cancel", `{"reason":" "}`, operator...)
	g.c.Refusals("POST", g.retry+"/cancel", operator...)

	storetest.Exec(t, g.pool,
		`INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, matched, remaining, due_at)
SELECT gen_random_uuid(), 'bob', 'x', '{}', 1, 1, 1, 1, now() + interval '1 h' FROM generate_series(1, 10)`)
	g.c.Call(409, "POST", retries, some+"}", operator...)
	if again := g.c.Call(202, "POST", retries, mine, operator...); again.Body["state"] != "finished" ||
		again.Header.Get("Location") != begun.Header.Get("Location") {
		t.Errorf("a repeated call is answered %v", again.Body)
	}
	var other string
	err := g.pool.QueryRow(t.Context(), "SELECT id::text FROM group_retry WHERE actor = 'bob' LIMIT 1").Scan(&other)
	if err != nil {
		t.Fatal(err)
	}
	g.c.Call(202, "POST", retries+"/"+other+"/cancel", "", operator...)
	g.c.Call(202, "POST", retries+"/"+other+"/cancel", `{"reason":"wrong group"}`, operator...)
	if page := g.c.Call(200, "GET", retries+"?limit=1", "", viewer...); page.Body["next_cursor"] == nil {
		t.Errorf("retries: %v", page.Body)
	} else {
		g.c.Call(200, "GET", retries+"?cursor="+page.Body["next_cursor"].(string), "", viewer...)
	}
}

func (g *groups) deadEvents(t *testing.T) {
	t.Helper()
	storetest.Exec(t, g.pool,
		`INSERT INTO outbox_dead_essential (id, event_id, type, error) SELECT id, event_id, type, 'too large'
		    FROM outbox_event_essential`)
	dead := g.admin + "/outbox/dead"
	page := g.c.Call(200, "GET", dead+"?limit=1", "", viewer...)
	g.c.Call(200, "GET", dead+"?cursor="+page.Body["next_cursor"].(string), "", viewer...)
	id := page.Body["items"].([]any)[0].(map[string]any)["id"].(string)
	g.dead = dead + "/" + id + "/requeue"
	const reason = `{"reason":"limit raised"}`
	g.c.Call(401, "POST", g.dead, reason)
	g.c.Call(403, "POST", g.dead, reason, viewer...)
	g.c.Call(422, "POST", g.dead, `{"reason":""}`, operator...)
	g.c.Refusals("POST", g.dead, operator...)
	g.c.Call(202, "POST", g.dead, reason, operator...)
	g.c.Call(404, "POST", g.dead, reason, operator...)
	g.c.Call(404, "POST", dead+"/-1/requeue", reason, operator...)
}

// withoutDatabase makes all calls again while the database does not answer.
func (g *groups) withoutDatabase() {
	for _, path := range []string{"/overview", "/failures", "/retries", "/outbox/dead", "/audit"} {
		g.c.Call(503, "GET", g.admin+path, "", viewer...)
	}
	g.c.Call(503, "GET", g.retry, "", viewer...)
	g.c.Call(503, "POST", g.admin+"/retries", `{"filter":{},"reason":"x"}`, operator...)
	g.c.Call(503, "POST", g.retry+"/cancel", "", operator...)
	g.c.Call(503, "POST", g.dead, `{"reason":"x"}`, operator...)
}

// tooManyWrongTokens makes all calls to a replica that has received too many wrong tokens.
func tooManyWrongTokens(c *apitest.Contract, s *svc) {
	admin := s.admin + "/admin/v1"
	for range 10 {
		c.Call(401, "GET", admin+"/overview", "", "Authorization", "Bearer a wrong token")
	}
	const id = "/0199e5c0-5b1c-7a10-9c7e-6a0d9c1e2f44"
	for _, path := range []string{
		"/sagas", "/sagas" + id, "/overview", "/failures", "/retries", "/retries" + id, "/outbox/dead", "/audit",
	} {
		c.Call(429, "GET", admin+path, "", viewer...)
	}
	for _, path := range []string{
		"/sagas" + id + "/retry", "/sagas" + id + "/cancel", "/retries", "/retries" + id + "/cancel",
		"/outbox/dead/essential-1/requeue",
	} {
		body := `{"reason":"x"}`
		if path == "/retries" {
			body = `{"filter":{},"reason":"x"}`
		}
		c.Call(429, "POST", admin+path, body, operator...)
	}
}
