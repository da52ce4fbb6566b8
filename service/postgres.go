package service

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// observer is notified when a statement is sent and when it has ended. A batch goes by its first statement.
type observer interface {
	started(ctx context.Context, conn *pgx.Conn, sql string) context.Context
	ended(ctx context.Context, err error)
}

// observed makes a pgx tracer from observers.
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
		if ctx.Err() != nil || errors.Is(err, errGivenUp) {
			return fmt.Errorf("waiting for %s: %w", what, errors.Join(ctx.Err(), err))
		}
		pause(ctx, Backoff(failures.Add(ctx, err), 50*time.Millisecond, time.Second))
	}
}

// Transactor begins transactions that Postgres rolls back when they have been idle for too long. A process that is
// suspended in the middle of one would otherwise keep its locks, and block everybody who needs the same rows.
type Transactor struct {
	Pool *pgxpool.Pool // required
	Idle time.Duration // 0 means 5 s, far longer than a transaction is idle
}

const defaultIdle = 5 * time.Second

// Begin costs one round trip and leaves no state in the session, so it works through a connection pooler in
// transaction mode. We force generic plans: these statements look up a varying number of rows by key, and
// re-planning doubles their time. The low random_page_cost makes Postgres use the key's index even if it makes
// the plan while the table is small.
func (t Transactor) Begin(ctx context.Context) (pgx.Tx, error) {
	return t.Pool.BeginTx(ctx, pgx.TxOptions{
		BeginQuery: fmt.Sprintf("BEGIN; SET LOCAL idle_in_transaction_session_timeout = %d; "+
			"SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 0.1",
			cmp.Or(t.Idle, defaultIdle).Milliseconds()),
	})
}

// MigrationSet is a directory of goose migrations and the table that holds its version. A library and the
// service that uses it each have their own, so that they evolve independently.
type MigrationSet struct {
	FS    fs.FS  // with the .sql files in its root
	Table string // name
}

// refusalLimit is how long migrate keeps asking a server that refuses its role: roles and databases may be
// created at the same time.
const refusalLimit = 30 * time.Second

var (
	errRefused = errors.New("the server refuses this role: create roles and databases with " +
		"deploy/postgres-init.sql, or correct user, password, database and sslmode in the database url")
	errTLS = errors.New("the server and the database url do not agree on TLS: " +
		"correct sslmode and sslrootcert in the database url, or the server's certificate")
	errNoSession = errors.New("migrate locks a session, but a connection pooler is in front of the database: " +
		"connect to Postgres itself; if the pooler is in session mode, add default_query_exec_mode=exec to the url")
	errGivenUp = errors.New("given up")
)

// explain adds what to do if err means that the server does not let the role in.
func explain(err error) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	var pg *pgconn.PgError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &pg):
		switch pg.Code {
		case "28000", "28P01", "3D000", "42501": // role, TLS, password, database, no right to connect
			return fmt.Errorf("%w: %w", errRefused, err)
		}
	case errors.As(err, &certificate), strings.Contains(err.Error(), "server refused TLS"):
		return fmt.Errorf("%w: %w", errTLS, err)
	}
	return err
}

// Migrate waits for Postgres, then applies the missing migrations of each set, in order. Several processes may
// call it at once: a lock lets only one work. If the server refuses the role or TLS for half a minute, Migrate
// gives up.
func Migrate(ctx context.Context, url string, log *slog.Logger, sets ...MigrationSet) error {
	return migrate(ctx, url, log, refusalLimit, sets...)
}

func migrate(ctx context.Context, url string, log *slog.Logger, limit time.Duration, sets ...MigrationSet) error {
	c := connector{url: NewSecret(url), log: log}
	cfg, err := c.config()
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*cfg.ConnConfig, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		if modeIsSet(url) {
			return nil
		}
		pooler, err := behindPooler(ctx, conn)
		if err == nil && pooler {
			err = fmt.Errorf("%w: %w", errGivenUp, errNoSession)
		}
		return err
	}))
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		_ = within(ctx, "close the database's connections", func(context.Context) error { return db.Close() })
	}()
	var refused time.Time // since when
	err = waitFor(ctx, "postgres", log, func(ctx context.Context) error {
		err := explain(db.PingContext(ctx))
		switch {
		case !errors.Is(err, errRefused) && !errors.Is(err, errTLS):
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > limit:
			err = fmt.Errorf("%w after %s: %w", errGivenUp, limit, err)
		}
		return err
	})
	if err != nil {
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

// waitMigrated waits until the database has at least the newest version of each set. A newer database is
// accepted: during a rollout the old program runs on it.
func waitMigrated(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger, sets ...MigrationSet) error {
	for _, s := range sets {
		want, err := newest(s.FS)
		if err != nil {
			return fmt.Errorf("migrations of %s: %w", s.Table, err)
		}
		query := "-- name: schemaVersion\nSELECT coalesce(max(version_id), 0) FROM " +
			pgx.Identifier{s.Table}.Sanitize() + " WHERE is_applied"
		err = waitFor(ctx, "schema "+s.Table, log, func(ctx context.Context) error {
			var have int64
			if err := pool.QueryRow(ctx, query).Scan(&have); err != nil {
				return explainSchema(err)
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

// explainSchema adds what to do if the version of the schema cannot be read.
func explainSchema(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "42P01": // no such table
		return fmt.Errorf("run migrate, or name the right database in the database url: %w", err)
	case "42501": // no right
		return fmt.Errorf("this role may not read the schema; use the application's role in the database url: %w", err)
	}
	return err
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
