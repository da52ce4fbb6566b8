// Package storetest gives tests a fresh, migrated Member database.
package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// Steps are the steps that tests use: the service's defaults.
var Steps = saga.Steps{saga.Provision(30*time.Second, 24*time.Hour)}

// Secret is the secret that tests use.
var Secret = []byte("0123456789abcdef0123456789abcdef")

// URL returns the URL of a fresh Member database, which is dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	return testenv.Database(t, "member", func(ctx context.Context, url string) error {
		return service.Migrate(ctx, url, slog.New(slog.DiscardHandler), store.Migrations...)
	})
}

// Open returns a pool on a fresh Member database.
func Open(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Connect(t, URL(t))
}

// Connect returns a pool that is closed when the test ends.
func Connect(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Begin returns a new signup of m, and the types of its events, without storing it.
func Begin(sagaID string, m store.Member) (store.Record, []contract.Type) {
	now := time.Now()
	first, effects, _ := Steps.Decide(
		saga.Saga{ID: sagaID, MemberID: m.ID, SignupID: fmt.Sprintf("sgn_%040x", uuid.Must(uuid.NewV4()).Bytes())},
		saga.Event{Kind: saga.SignedUp}, now)
	r := store.Record{Saga: first, Username: &m.Username, UsernameKey: &m.UsernameKey, Plan: m.Plan, Now: now}
	return r, effects
}

// SignUp stores a new member with this name and plan, as the service does.
func SignUp(t testing.TB, st *store.Store, name, plan string) store.Record {
	t.Helper()
	id := func() string { return uuid.Must(uuid.NewV7()).String() }
	m := store.Member{ID: id(), Username: name, UsernameKey: name, Plan: plan, PasswordHash: "$argon2id$"}
	r, effects := Begin(id(), m)
	if err := st.SignUp(t.Context(), m, r, effects, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// Count returns the number that a query selects.
func Count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), "-- name: testCount\n"+sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// Exec runs a statement.
func Exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), "-- name: testExec\n"+sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
