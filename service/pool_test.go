package service_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// roleDatabase returns the URL of a database for a role that only this test uses, and a function that runs
// statements as the superuser.
func roleDatabase(t *testing.T, role string) (roleURL string, admin func(sql string)) {
	t.Helper()
	u, err := url.Parse(testenv.Database(t, "empty", nil))
	if err != nil {
		t.Fatal(err)
	}
	super := u.String()
	admin = func(sql string) {
		t.Helper()
		conn, err := pgx.Connect(context.Background(), super)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	admin("CREATE ROLE " + role + " LOGIN SUPERUSER PASSWORD 'secret'; CREATE TABLE x (id int)")
	t.Cleanup(func() { admin("DROP ROLE " + role) })
	u.User = url.UserPassword(role, "secret")
	return u.String(), admin
}

func open(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := openPool(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// fill opens all connections of a pool, and runs sql on each.
func fill(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	var all []*pgxpool.Conn
	for range pool.Config().MaxConns {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, conn)
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range all {
		conn.Release()
	}
}

// All connections are to a server that was demoted: the first error closes them all.
func TestReadOnlyConnectionsAreDestroyed(t *testing.T) {
	pool := open(t, testenv.Database(t, "empty", nil))
	if _, err := pool.Exec(t.Context(), "CREATE TABLE x (id int)"); err != nil {
		t.Fatal(err)
	}
	fill(t, pool, "SET default_transaction_read_only = on")
	if _, err := pool.Exec(t.Context(), "INSERT INTO x VALUES (1)"); err == nil || !service.Unavailable(err) {
		t.Fatalf("a read-only connection: %v", err)
	}
	for range 2 * pool.Config().MaxConns {
		if _, err := pool.Exec(t.Context(), "INSERT INTO x VALUES (1)"); err != nil {
			t.Fatalf("a connection that leads nowhere is still in the pool: %v", err)
		}
	}
	fill(t, pool, "SET default_transaction_read_only = on")
	writable := service.Writable(pool)
	if err := writable(t.Context()); err == nil {
		t.Error("ready with a read-only connection")
	}
	if err := writable(t.Context()); err != nil {
		t.Errorf("not ready with a new connection: %v", err)
	}
}

// A role may not write for a while: nobody hangs, and connections of that time do not stay.
func TestRoleIsReadOnlyForAWhile(t *testing.T) {
	roleURL, admin := roleDatabase(t, "test_read_only")
	pool := open(t, roleURL)
	fill(t, pool, "SELECT 1")
	write := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		_, err := pool.Exec(ctx, "INSERT INTO x VALUES (1)")
		return err
	}
	admin("ALTER ROLE test_read_only SET default_transaction_read_only = on;" +
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'test_read_only'")
	for range 20 {
		if err := write(); err == nil || !service.Unavailable(err) {
			t.Fatalf("the role writes: %v", err)
		}
	}
	if err := service.Writable(pool)(t.Context()); err == nil {
		t.Error("ready while nothing can be written")
	}
	admin("ALTER ROLE test_read_only RESET default_transaction_read_only")
	began := time.Now()
	testenv.Eventually(t, 3*time.Second, "a write", func() bool { return write() == nil })
	t.Logf("writes again after %s", time.Since(began))
}

// Of several hosts, the one that accepts writes is used.
func TestOfSeveralHostsTheWritableIsUsed(t *testing.T) {
	u, err := url.Parse(testenv.Database(t, "empty", nil))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	u.Host = gone + "," + u.Host
	pool := open(t, u.String())
	if err := service.Writable(pool)(t.Context()); err != nil {
		t.Error(err)
	}
}

// Neither a server that hangs nor a task that keeps a connection blocks the closing of the pool.
func TestClosePoolIsBounded(t *testing.T) {
	proxy := testenv.NewProxy(t, testenv.Database(t, "empty", nil))
	pool, err := openPool(t.Context(), proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Cut()
	fill(t, pool, "SELECT 1")
	kept, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Release()
	proxy.Deafen()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := pool.Exec(short, "SELECT 1"); !service.Unavailable(err) { // pgx then cancels the statement
		t.Fatal(err)
	}
	began := time.Now()
	if err := service.ClosePool(t.Context(), pool); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closed: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

// No statement waits for ever, whoever sends it. Statements that end in time leave their connection as it is.
func TestStatementsAreBounded(t *testing.T) {
	pool := open(t, testenv.Database(t, "empty", nil))
	ctx := context.Background() // as in background work: without a deadline
	query := func(sql string) error {
		rows, err := pool.Query(ctx, sql)
		if err != nil {
			return err
		}
		rows.Close()
		return rows.Err()
	}
	kinds := []func(sql string) error{
		query,
		func(sql string) error { _, err := pool.Exec(ctx, sql); return err },
		func(sql string) error {
			b := new(pgx.Batch)
			b.Queue("SELECT 1")
			b.Queue(sql)
			return pool.SendBatch(ctx, b).Close()
		},
		func(sql string) error {
			return service.Transactor{Pool: pool}.Do(ctx, nil, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, sql)
				return err
			})
		},
	}
	for range 10 {
		for i, kind := range kinds {
			if err := kind("SELECT 1"); err != nil {
				t.Errorf("kind %d: %v", i, err)
			}
		}
	}
	if n := pool.Stat().NewConnsCount(); n != 1 {
		t.Errorf("%d connections were made for statements that came one after the other", n)
	}
	began := time.Now()
	var wg sync.WaitGroup
	for i, kind := range kinds {
		wg.Go(func() {
			if err := kind("SELECT pg_sleep(30)"); err == nil || !service.Unavailable(err) {
				t.Errorf("kind %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("took %s", took)
	}
}

// If the server refuses its role, migrate gives up and says what to do.
func TestMigrateGivesUpWhenRefused(t *testing.T) {
	server := testenv.Cluster(t) // not shared: the last case locks everybody out
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{
		"CREATE ROLE someone LOGIN PASSWORD 'secret'", "CREATE DATABASE closed",
		"REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	const roles, security = "deploy/postgres-init.sql", "correct sslmode"
	for _, c := range []struct {
		name   string
		wrong  func(u *url.URL)
		advice string
	}{
		{"no database", func(u *url.URL) { u.Path = "/nowhere" }, roles},
		{"wrong password", func(u *url.URL) { u.User = url.UserPassword("someone", "guess") }, roles},
		{"no role", func(u *url.URL) { u.User = url.UserPassword("nobody", "secret") }, roles},
		{"no right to connect", func(u *url.URL) {
			u.User, u.Path = url.UserPassword("someone", "secret"), "/closed"
		}, roles},
		{"TLS is refused", func(u *url.URL) { u.RawQuery = "sslmode=require" }, security},
		{"TLS is required", func(*url.URL) {
			_, err := conn.Exec(t.Context(), `DO $$ BEGIN
EXECUTE format('COPY (SELECT ''hostssl all all all scram-sha-256'') TO %L', current_setting('hba_file'));
END $$; SELECT pg_reload_conf()`)
			if err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, 5*time.Second, "the rule", func() bool {
				other, err := pgx.Connect(t.Context(), server)
				if err == nil {
					_ = other.Close(t.Context())
				}
				return err != nil
			})
		}, roles},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := url.Parse(server)
			if err != nil {
				t.Fatal(err)
			}
			c.wrong(u)
			err = service.MigrateWithLimit(t.Context(), u.String(), discard(), 100*time.Millisecond, migrations("1"))
			if err == nil || !strings.Contains(err.Error(), c.advice) {
				t.Error(err)
			}
		})
	}
}
