package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // the database/sql driver that goose needs
	"github.com/jackc/puddle/v2"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const (
	connectTimeout  = 2 * time.Second
	defaultMaxConns = 16
)

// OpenPool opens a pool and waits, with back-off, until Postgres answers; it
// fails only for a malformed url or when ctx ends. A connection attempt takes at
// most 2 s, and the pool has 16 connections, unless the url sets connect_timeout and
// pool_max_conns.
func OpenPool(ctx context.Context, url string, log *slog.Logger) (*pgxpool.Pool, error) {
	return openPool(ctx, NewSecret(url), log, nil)
}

func openPool(ctx context.Context, url Secret, log *slog.Logger, f *fault) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url.Reveal())
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	// Role and password may change in their file while the pool lives.
	cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		now, err := pgxpool.ParseConfig(url.Current())
		if err != nil {
			log.Error("the changed database url is not used", "error", err)
			return nil
		}
		c.User, c.Password = now.ConnConfig.User, now.ConnConfig.Password
		return nil
	}
	if !strings.Contains(url.Reveal(), "connect_timeout") {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	// Times are shown in UTC, wherever a process runs.
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC}})
		return nil
	}
	observers := observed{querySpans{}}
	if f != nil {
		observers = append(observers, f)
	}
	cfg.ConnConfig.Tracer = observers
	if !strings.Contains(url.Reveal(), "pool_max_conns") {
		cfg.MaxConns = defaultMaxConns
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	if err := waitFor(ctx, "postgres", log, pool.Ping); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// observer is told of each statement when it is sent and when it has ended. A batch goes
// by its first one.
type observer interface {
	started(ctx context.Context, conn *pgx.Conn, sql string) context.Context
	ended(ctx context.Context, err error)
}

// observed makes a tracer for pgx of observers.
type observed []observer

// TraceQueryStart implements pgx.QueryTracer.
func (all observed) TraceQueryStart(ctx context.Context, conn *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	for _, o := range all {
		ctx = o.started(ctx, conn, q.SQL)
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (all observed) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryEndData) {
	for _, o := range all {
		o.ended(ctx, q.Err)
	}
}

// TraceBatchStart implements pgx.BatchTracer.
func (all observed) TraceBatchStart(ctx context.Context, conn *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	if len(b.Batch.QueuedQueries) == 0 {
		return ctx
	}
	return all.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{SQL: b.Batch.QueuedQueries[0].SQL})
}

// TraceBatchQuery implements pgx.BatchTracer.
func (observed) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (all observed) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, b pgx.TraceBatchEndData) {
	all.TraceQueryEnd(ctx, conn, pgx.TraceQueryEndData{Err: b.Err})
}

// waitFor calls ready, with back-off, until it succeeds or ctx ends.
func waitFor(ctx context.Context, what string, log *slog.Logger, ready func(context.Context) error) error {
	failures := Failures{Task: "waiting for " + what, Log: log}
	for {
		try, cancel := context.WithTimeout(ctx, 2*connectTimeout)
		err := ready(try)
		cancel()
		if err == nil {
			failures.Recovered()
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", what, errors.Join(ctx.Err(), err))
		}
		pause(ctx, Backoff(failures.Add(ctx, err), 50*time.Millisecond, time.Second))
	}
}

// Transactor begins transactions that Postgres rolls back when it hears nothing
// from them for Idle. A process that is suspended in the middle of one would
// otherwise keep its locks, and with them everybody who needs the same rows.
type Transactor struct {
	Pool *pgxpool.Pool
	Idle time.Duration
}

// Begin costs one round trip, and leaves nothing behind in the session: it works
// through a connection pooler in transaction mode. Statements are planned once, for
// they look rows up by keys, in numbers that vary: planned anew each time, which
// Postgres may prefer, they take twice as long. And they go by the keys, also where
// that plan is made while the table is small.
func (t Transactor) Begin(ctx context.Context) (pgx.Tx, error) {
	return t.Pool.BeginTx(ctx, pgx.TxOptions{
		BeginQuery: fmt.Sprintf("BEGIN; SET LOCAL idle_in_transaction_session_timeout = %d; "+
			"SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 0.1", t.Idle.Milliseconds()),
	})
}

// Unavailable reports whether err says that the database could not be reached or
// did not answer in time, rather than that it refused the work. The outcome of a
// commit that failed so is unknown.
func Unavailable(err error) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) { // whatever the server said: nobody is let in
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// 08 connection, 53 resources, 57 operator intervention (shutdown, time-outs).
		switch pg.Code[:2] {
		case "08", "53", "57":
			return true
		}
		return pg.Code == "25006" || pg.Code == "25P03" // read-only: a demoted primary; idle for too long in a transaction
	}
	var network net.Error
	return errors.As(err, &network) || pgconn.Timeout(err) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, puddle.ErrClosedPool) || pgconn.SafeToRetry(err)
}

// MigrationSet is a directory of goose migrations with the table that holds its
// version, so that a library and the service that uses it evolve independently.
type MigrationSet struct {
	FS    fs.FS // with the .sql files in its root
	Table string
}

// Migrate waits for Postgres, then applies what is missing of each set, in
// order. Several processes may call it at once: a session lock lets one work.
func Migrate(ctx context.Context, url string, log *slog.Logger, sets ...MigrationSet) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("database url: %w", err)
	}
	defer db.Close()
	if err := waitFor(ctx, "postgres", log, db.PingContext); err != nil {
		return err
	}
	// Poll for the lock each second, for up to five minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("migration lock: %w", err)
	}
	for _, s := range sets {
		provider, err := goose.NewProvider(goose.DialectPostgres, db, s.FS,
			goose.WithTableName(s.Table), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
		if err != nil {
			return fmt.Errorf("migrations of %s: %w", s.Table, err)
		}
		results, err := provider.Up(ctx)
		if err != nil {
			return fmt.Errorf("migrate %s: %w", s.Table, err)
		}
		for _, r := range results {
			log.Info("migrated", "set", s.Table, "migration", r.Source.Path, "took", r.Duration)
		}
	}
	return nil
}

// WaitMigrated waits until the database has at least the newest version of each
// set. A newer database is welcome: during a rollout the old program runs on it.
func WaitMigrated(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger, sets ...MigrationSet) error {
	for _, s := range sets {
		want, err := newest(s.FS)
		if err != nil {
			return fmt.Errorf("migrations of %s: %w", s.Table, err)
		}
		query := "-- name: schemaVersion\nSELECT coalesce(max(version_id), 0) FROM " + pgx.Identifier{s.Table}.Sanitize() + " WHERE is_applied"
		err = waitFor(ctx, "schema "+s.Table, log, func(ctx context.Context) error {
			var have int64
			if err := pool.QueryRow(ctx, query).Scan(&have); err != nil {
				return err
			}
			if have < want {
				return fmt.Errorf("version %d, need %d: run migrate", have, want)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func newest(fsys fs.FS) (int64, error) {
	files, err := fs.Glob(fsys, "*.sql")
	if err != nil {
		return 0, err
	}
	var highest int64
	for _, f := range files {
		v, err := goose.NumericComponent(f)
		if err != nil {
			return 0, err
		}
		highest = max(highest, v)
	}
	if highest == 0 {
		return 0, errors.New("no migrations found")
	}
	return highest, nil
}
