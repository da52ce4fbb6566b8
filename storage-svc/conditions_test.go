package main

import (
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// Every operation, while everything is locked for longer than anybody waits.
func TestNoOperationAnswers500WhileTablesAreLocked(t *testing.T) {
	nats := testenv.NATS(t)
	vars := environment(t, nats.URL)
	migrated(t, vars)
	admin, err := pgx.Connect(t.Context(), vars["STORAGE_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	_, err = admin.Exec(t.Context(), `DO $$ BEGIN
EXECUTE format('ALTER DATABASE %I SET lock_timeout = 50', current_database()); END $$`)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, vars)
	tx, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), `SET LOCAL lock_timeout = 0; DO $$ DECLARE r record; BEGIN
FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
LOOP EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', r.tablename); END LOOP; END $$`)
	if err != nil {
		t.Fatal(err)
	}
	const member = "01a20435-2858-7421-b5f0-fc06fb2e3e4e"
	fingerprint := "00000000000000000000000000000000"
	for _, r := range [][3]string{
		{"GET", "/v1/storages"},
		{"GET", "/v1/storages/" + member},
		{"GET", "/v1/dead-letters"},
		{"POST", "/v1/dead-letters/" + fingerprint + fingerprint + "/requeue"},
		{"GET", "/v1/faults"},
		{"PUT", "/v1/faults", `{"mode":"none"}`},
	} {
		if status, answer := p.call(r[0], r[1], r[2]); status != http.StatusServiceUnavailable {
			t.Errorf("%s %s: %d %s", r[0], r[1], status, answer)
		}
	}
	if status, answer := p.call("GET", "/metrics", ""); status != http.StatusOK {
		t.Errorf("metrics: %d %s", status, answer)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}
