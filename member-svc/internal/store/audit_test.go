package store_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

func TestAuditIsOnlyAddedTo(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	f.apply(t, r.ID, saga.Event{Kind: saga.Withdraw, Actor: "ann", Reason: "asked by letter"})
	const audit = "SELECT count(*) FROM admin_audit WHERE actor = 'ann' AND reason = 'asked by letter'"
	if n := storetest.Count(t, f.pool, audit); n != 1 {
		t.Fatalf("%d rows, want 1", n)
	}
	for _, change := range []string{
		"UPDATE admin_audit SET actor = 'bob'",
		"UPDATE admin_audit SET reason = 'x' WHERE false",
		"DELETE FROM admin_audit",
		"TRUNCATE admin_audit",
		"MERGE INTO admin_audit a USING (SELECT 1) AS x ON true WHEN MATCHED THEN DELETE",
		"INSERT INTO admin_audit SELECT * FROM admin_audit ON CONFLICT (id) DO UPDATE SET actor = 'bob'",
	} {
		_, err := f.pool.Exec(t.Context(), "-- name: testChange\n"+change)
		if pg := new(pgconn.PgError); !errors.As(err, &pg) || pg.Code != "42501" && pg.Code != "428C9" {
			t.Errorf("%s: %v, want it to be refused", change, err)
		}
	}
	if n := storetest.Count(t, f.pool, audit); n != 1 {
		t.Errorf("%d rows afterwards, want 1", n)
	}
}
