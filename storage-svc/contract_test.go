package main

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/devstack/testenv/apitest"
)

// Every documented answer is seen, and no other one.
func TestContract(t *testing.T) {
	broker := testenv.NATS(t)
	vars := environment(t, broker.URL)
	migrated(t, vars)
	base := "http://" + start(t, vars).addr
	c := apitest.New(t, base)
	bearer := []string{"Authorization", "Bearer " + token}
	for _, path := range []string{"/livez", "/readyz", "/readyz?verbose", "/metrics", "/openapi.json"} {
		c.Call(200, "GET", base+path, "")
	}

	storages, letters, faults := base+"/v1/storages", base+"/v1/dead-letters", base+"/v1/faults"
	other := newMemberService(t, broker.URL)
	other.send(contract.StorageProvision, storageCommand(1))
	other.expect(contract.StorageProvisioned, 1)
	c.Call(200, "GET", storages+"?limit=1", "", bearer...)
	c.Call(401, "GET", storages, "")
	c.Call(422, "GET", storages+"?limit=0", "", bearer...)
	c.Call(200, "GET", storages+"/"+member, "", bearer...)
	c.Call(401, "GET", storages+"/"+member, "")
	c.Call(404, "GET", storages+"/"+saga, "", bearer...)

	poison := storageCommand(1)
	poison.SagaID = ""
	other.send(contract.StorageProvision, poison)
	var letter string
	testenv.Eventually(t, 20*time.Second, "a dead letter", func() bool {
		items := c.Call(200, "GET", letters+"?limit=1", "", bearer...).Body["items"].([]any)
		if len(items) == 1 {
			letter = letters + "/" + items[0].(map[string]any)["id"].(string) + "/requeue"
		}
		return len(items) == 1
	})
	c.Call(401, "GET", letters, "")
	c.Call(422, "GET", letters+"?limit=0", "", bearer...)
	c.Call(401, "POST", letter, "")
	c.Call(404, "POST", letters+"/x/requeue", "", bearer...)
	c.Call(409, "POST", letter, "", bearer...)
	// A newer program can parse the message.
	execute(t, vars["STORAGE_DATABASE_URL"], `UPDATE dead_letter SET body = '{"member_id":"`+member+`","saga_id":"`+
		saga+`","generation":1,"quota_bytes":5}'`)
	c.Call(204, "POST", letter, "", bearer...)

	c.Call(200, "GET", faults, "", bearer...)
	c.Call(401, "GET", faults, "")
	c.Call(200, "PUT", faults, `{"mode":"none"}`, bearer...)
	c.Call(401, "PUT", faults, `{"mode":"none"}`)
	c.Call(422, "PUT", faults, `{"mode":"explode"}`, bearer...)
	c.Refusals("PUT", faults, bearer...)
	without := maps.Clone(vars)
	without["FAULTS"] = "off"
	off := "http://" + start(t, without).addr + "/v1/faults"
	c.Call(404, "GET", off, "", bearer...)
	c.Call(404, "PUT", off, `{"mode":"none"}`, bearer...)

	tooManyWrongTokens(c, "http://"+start(t, vars).addr)

	withoutDatabase(t, vars["STORAGE_DATABASE_URL"], func() {
		c.Call(503, "GET", base+"/readyz", "")
		c.Call(503, "GET", storages, "", bearer...)
		c.Call(503, "GET", storages+"/"+member, "", bearer...)
		c.Call(503, "GET", letters, "", bearer...)
		c.Call(503, "POST", letter, "", bearer...)
		c.Call(503, "GET", faults, "", bearer...)
		c.Call(503, "PUT", faults, `{"mode":"none"}`, bearer...)
	})
}

// tooManyWrongTokens calls every operation of a replica that has been sent too many wrong tokens.
func tooManyWrongTokens(c *apitest.Contract, base string) {
	wrong := []string{"Authorization", "Bearer a wrong token"}
	for range 10 {
		c.Call(401, "GET", base+"/v1/storages", "", wrong...)
	}
	for _, path := range []string{"/v1/storages", "/v1/storages/" + member, "/v1/dead-letters", "/v1/faults"} {
		c.Call(429, "GET", base+path, "", wrong...)
	}
	c.Call(429, "POST", base+"/v1/dead-letters/x/requeue", "", wrong...)
	c.Call(429, "PUT", base+"/v1/faults", `{"mode":"none"}`, wrong...)
}

// withoutDatabase prevents all connections to a database while fn runs.
func withoutDatabase(t *testing.T, url string, fn func()) {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	name := pgx.Identifier{cfg.Database}.Sanitize()
	elsewhere := strings.Replace(url, "/"+cfg.Database, "/postgres", 1)
	execute(t, elsewhere, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+cfg.Database+"'")
	defer execute(t, elsewhere, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS true")
	fn()
}

func execute(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}
