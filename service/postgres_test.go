package service_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

func migrations(versions ...string) service.MigrationSet {
	set := service.MigrationSet{Table: "test_version", FS: fstest.MapFS{}}
	for _, v := range versions {
		set.FS.(fstest.MapFS)[v+
			"_x.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE t" + v + " (id int);\n")}
	}
	return set
}

func TestMigrateConcurrentlyAndWait(t *testing.T) {
	url := testenv.Database(t, "empty", nil)
	pool, err := openPool(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	once, end := context.WithTimeout(t.Context(), time.Second)
	defer end()
	var log bytes.Buffer
	_ = service.WaitMigrated(once, pool, slog.New(slog.NewTextHandler(&log, nil)), migrations("1"))
	if !strings.Contains(log.String(), "run migrate") {
		t.Errorf("it is not said what to do: %s", &log)
	}
	waited := make(chan error, 1)
	go func() { waited <- service.WaitMigrated(t.Context(), pool, discard(), migrations("1", "2")) }()

	if err := service.Migrate(t.Context(), url, discard(), migrations("1")); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = service.WaitMigrated(short, pool, discard(), migrations("1", "2"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("did not wait for version 2: %v", err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := service.Migrate(t.Context(), url, discard(), migrations("1", "2")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	// An older program starts on a newer database.
	if err := service.WaitMigrated(t.Context(), pool, discard(), migrations("1")); err != nil {
		t.Error(err)
	}
}

// A database that was migrated when 00001 still had its Down section continues from there, with its lanes and
// events.
func TestOutboxMigrationsGoOnFromTheFirst(t *testing.T) {
	const first = "00001_lanes.sql"
	url := testenv.Database(t, "empty", nil)
	all, err := fs.Sub(outbox.Migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	up, err := fs.ReadFile(all, first)
	if err != nil {
		t.Fatal(err)
	}
	down, err := fs.ReadFile(all, "down/"+first)
	if err != nil {
		t.Fatal(err)
	}
	old := fstest.MapFS{first: {Data: slices.Concat(up, []byte("\n-- +goose Down\n"), down)}}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, step := range []struct {
		migrations fs.FS
		then       string
	}{
		{old, `SELECT outbox_create_lane('essential');
INSERT INTO outbox_event_essential (event_id, key, type, headers, payload)
VALUES (gen_random_uuid(), 'k', 't', '{}', '')`},
		{all, "SELECT outbox_create_lane('second'); SELECT outbox_drop_lane('second')"},
		{all, ""},
	} {
		set := service.MigrationSet{FS: step.migrations, Table: "outbox_version"}
		if err := service.Migrate(t.Context(), url, discard(), set); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), step.then); err != nil {
			t.Fatal(err)
		}
	}
	var versions, events int
	err = conn.QueryRow(t.Context(), `-- name: migrated
SELECT (SELECT count(*) FROM outbox_version WHERE version_id > 0), (SELECT count(*) FROM outbox_event_essential)`).
		Scan(&versions, &events)
	if err != nil || versions != 2 || events != 1 {
		t.Errorf("%d migrations noted and %d events, %v; want 2 and 1", versions, events, err)
	}
}

func TestOpenPoolWaitsUntilStopped(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = openPool(ctx, "postgres://x@"+addr+"/x")
	if !errors.Is(err, context.DeadlineExceeded) || !service.Unavailable(err) {
		t.Errorf("err = %v", err)
	}
	if _, err := openPool(t.Context(), "://"); err == nil {
		t.Error("a malformed url was accepted")
	}
}

func TestUnavailable(t *testing.T) {
	url := testenv.Database(t, "empty", nil)
	pool, err := openPool(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "SELECT 1/0")
	if err == nil || service.Unavailable(err) {
		t.Errorf("division by zero: %v", err)
	}
	_, err = pool.Exec(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())")
	if !service.Unavailable(err) {
		t.Errorf("terminated: %v", err)
	}
	nowhere := pool.Config().ConnConfig
	nowhere.Database = "nowhere"
	if _, err = pgx.ConnectConfig(t.Context(), nowhere); !service.Unavailable(err) {
		t.Errorf("not let in: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = pool.Exec(ctx, "SELECT pg_sleep(10)"); !service.Unavailable(err) {
		t.Errorf("timed out: %v", err)
	}
}

func TestTransactorGivesUpLocksOfTheSuspended(t *testing.T) {
	pool, err := openPool(t.Context(), testenv.Database(t, "empty", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), "CREATE TABLE x (id int); INSERT INTO x VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	suspended, err := service.Transactor{Pool: pool, Idle: 100 * time.Millisecond}.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := suspended.Exec(t.Context(), "UPDATE x SET id = 2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := pool.Exec(ctx, "UPDATE x SET id = id + 10"); err != nil {
		t.Errorf("the lock was kept: %v", err)
	}
	if err := suspended.Commit(t.Context()); !service.Unavailable(err) {
		t.Errorf("commit: %v", err)
	}
	var id int
	if err := pool.QueryRow(t.Context(), "SELECT id FROM x").Scan(&id); err != nil || id != 11 {
		t.Errorf("id %d, %v", id, err)
	}
	const setting = "SELECT current_setting('idle_in_transaction_session_timeout')::int"
	if err := pool.QueryRow(t.Context(), setting).Scan(&id); err != nil || id != 0 {
		t.Errorf("left behind: %d, %v", id, err)
	}
}

// A plan that was made while a table was small must still be good when the table has grown.
func TestTransactorPlansByKeyAndOnce(t *testing.T) {
	pool, err := openPool(t.Context(), testenv.Database(t, "empty", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(),
		"CREATE TABLE x (id uuid PRIMARY KEY, version bigint, a text, b text, c text, d text, e text, f text, g "+
			"text, h text)"); err != nil {
		t.Fatal(err)
	}
	tx, err := service.Transactor{Pool: pool}.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(),
		"PREPARE q (uuid[]) AS UPDATE x SET version = 1 WHERE id = ANY ($1)"); err != nil {
		t.Fatal(err)
	}
	rows, err := tx.Query(t.Context(), "EXPLAIN EXECUTE q ('{0197d5a0-0000-7000-8000-000000000000}')",
		pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	plan := strings.Join(lines, "\n")
	if err != nil || !strings.Contains(plan, "x_pkey") || !strings.Contains(plan, "ANY ($1)") {
		t.Errorf("not by key, or not for all parameters: %v\n%s", err, plan)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left string
	if err := pool.QueryRow(t.Context(),
		"SELECT current_setting('plan_cache_mode') || current_setting('random_page_cost')").Scan(&left); err != nil ||
		left != "auto4" {
		t.Errorf("left behind: %s, %v", left, err)
	}
}

func TestBackoffStaysBelowItsLimits(t *testing.T) {
	for attempt, limit := range map[int]time.Duration{0: 100, 1: 100, 2: 200, 4: 800, 5: 1000, 40: 1000, 1000: 1000} {
		var most time.Duration
		for range 2000 {
			most = max(most, service.Backoff(attempt, 100, 1000))
		}
		if most >= limit || most < limit/2 {
			t.Errorf("attempt %d: up to %d, want just below %d", attempt, most, limit)
		}
	}
}

func TestLoopWaitsWakesAndBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		calls := 0
		wake := make(chan struct{}, 1)
		result := func() (bool, error) { return false, nil }
		go service.Loop(ctx, "test", time.Second, wake, discard(), func(context.Context) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return result()
		})
		check := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if calls != want {
				t.Fatalf("%s: %d calls, want %d", what, calls, want)
			}
		}
		check("start", 1)
		<-time.After(time.Second)
		check("interval", 2)
		wake <- struct{}{}
		check("wake", 3)
		mu.Lock()
		result = func() (bool, error) { return calls < 10, nil }
		mu.Unlock()
		wake <- struct{}{}
		check("more", 10)
		mu.Lock()
		result = func() (bool, error) { return false, errors.New("broken") }
		mu.Unlock()
		<-time.After(time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if calls < 20 || calls > 120 {
			t.Errorf("%d calls in a minute of failures", calls)
		}
	})
}

// Whatever the time zone of the machine, answers show times in UTC.
func TestTimesAreInUTC(t *testing.T) {
	local := time.Local
	time.Local = time.FixedZone("elsewhere", 3600)
	t.Cleanup(func() { time.Local = local })
	pool, err := openPool(t.Context(), testenv.Database(t, "empty", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var at time.Time
	if err := pool.QueryRow(t.Context(), "SELECT now()").Scan(&at); err != nil || at.Location() != time.UTC {
		t.Errorf("%s is in %s: %v", at, at.Location(), err)
	}
}

// openPool opens a pool as a service does.
func openPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	return service.OpenPool(ctx, service.NewSecret(url), service.Common{}, discard())
}

func TestDatabaseURLIsChecked(t *testing.T) {
	for url, wrong := range map[string]bool{
		"": false, "postgres://u:p@h/d": false, "host=h dbname=d": false,
		"postgres://u:p%23x@h/d?pool_max_conns=4": false,
		"http://h/d": true, "secret": true, "postgres://u:secret@h:port/d": true,
		"postgres://u:secret@h/d?sslmode=verify-full&sslrootcert=/nowhere": true,
	} {
		var check service.Checks
		check.DatabaseURL("X_URL", service.NewSecret(url))
		err := check.Err()
		if (err != nil) != wrong {
			t.Errorf("%q: %v", url, err)
		}
		if wrong && (!strings.HasPrefix(err.Error(), "X_URL: must be ") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: %v", url, err)
		}
	}
}
