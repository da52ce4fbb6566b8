package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectTimeout  = 2 * time.Second
	defaultMaxConns = 16
	// closeLimit is how long closing a connection or a pool may take where nothing else bounds it.
	closeLimit = time.Second
	// pingTimeout bounds the check whether an idle connection still works.
	pingTimeout = time.Second
	// statementTimeout bounds each statement of a pool where nothing else does: a server may vanish without
	// closing its connections, and TCP gives up only after a quarter of an hour.
	statementTimeout = 10 * time.Second
)

// Errors about the server behind a connection.
var (
	errPooler   = errors.New("a connection pooler is in front of the database: reconnect without prepared statements")
	errReadOnly = errors.New("the database is read-only")
)

// OpenPool opens a pool and waits, with back-off, until Postgres answers. It fails only if url is malformed or
// when ctx ends. Unless the url sets them, a connection attempt takes at most 2 s (connect_timeout), the pool
// has up to 16 connections (pool_max_conns), and of several hosts it uses the one that accepts writes
// (target_session_attrs).
//
// A connection whose server was demoted or is shutting down is closed at its first error, together with all
// idle ones: new connections go to the new primary. Behind a connection pooler such as PgBouncer no statement
// is prepared in the session, unless the url sets default_query_exec_mode.
//
// A statement ends after 10 s at the latest, and then releases what it holds.
func OpenPool(ctx context.Context, url Secret, c Common, log *slog.Logger) (*pgxpool.Pool, error) {
	conns := connector{url: url, log: log}
	cfg, err := conns.config()
	if err != nil {
		return nil, err
	}
	observers := observed{querySpans{}, statementLimit(statementTimeout)}
	if f := newFault(c, log); f != nil {
		observers = append(observers, f)
	}
	cfg.ConnConfig.Tracer = observers
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	conns.pool.Store(pool)
	ping := func(ctx context.Context) error {
		err := pool.Ping(ctx)
		if errors.Is(err, errPooler) { // the pooler is known now
			err = pool.Ping(ctx)
		}
		return explain(err)
	}
	if err := waitFor(ctx, "postgres", log, ping); err != nil {
		_ = ClosePool(context.Background(), pool)
		return nil, err
	}
	return pool, nil
}

// connector makes the connections of a pool, and remembers what they found out.
type connector struct {
	url    Secret
	log    *slog.Logger
	pool   atomic.Pointer[pgxpool.Pool]
	pooler atomic.Bool  // a pooler is between us and Postgres
	epoch  atomic.Int64 // incremented when the pool is reset
}

// epochKey is the key of a connection's epoch in its custom data.
const epochKey = "signup-saga: epoch"

func (c *connector) config() (*pgxpool.Config, error) {
	url := c.url.Reveal()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	if !strings.Contains(url, "connect_timeout") {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.ConnConfig.ValidateConnect == nil && !strings.Contains(url, "target_session_attrs") {
		cfg.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	lookup := cfg.ConnConfig.LookupFunc
	cfg.ConnConfig.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		return lookup(ctx, host)
	}
	cfg.PingTimeout = pingTimeout
	cfg.BeforeConnect, cfg.AfterConnect, cfg.BeforeClose = c.beforeConnect, c.afterConnect, closeSocket
	fatal := cfg.ConnConfig.OnPgError
	cfg.ConnConfig.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		return fatal(conn, err) && !c.left(conn, err)
	}
	return cfg, nil
}

// limitClose bounds how long a connection of this configuration takes to close. Until then it keeps its place
// in the pool, and pgx would wait 15 s for a server that is gone.
func limitClose(cfg *pgx.ConnConfig) {
	dial, made := cfg.DialFunc, new(atomic.Bool)
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil && made.Load() { // this one only asks the server to cancel a statement
			err = conn.SetDeadline(time.Now().Add(closeLimit))
		}
		return conn, err
	}
	cfg.AfterConnect = func(context.Context, *pgconn.PgConn) error {
		made.Store(true)
		return nil
	}
}

// closeSocket closes the socket of a connection that has not closed properly after closeLimit.
func closeSocket(conn *pgx.Conn) {
	time.AfterFunc(closeLimit, func() { _ = conn.PgConn().Conn().Close() })
}

// statementLimit is the timeout of each statement.
type statementLimit time.Duration

type statementLimitKey struct{}

func (p statementLimit) started(ctx context.Context, _ *pgx.Conn, _ string) context.Context {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p))
	return context.WithValue(ctx, statementLimitKey{}, cancel)
}

func (statementLimit) ended(ctx context.Context, _ error) {
	if cancel, ok := ctx.Value(statementLimitKey{}).(context.CancelFunc); ok {
		cancel()
	}
}

// beforeConnect re-reads the url's file: user and password may change while the pool is open. Hosts stay the
// same until a restart: connections to two databases at a time would be worse than none.
func (c *connector) beforeConnect(_ context.Context, cfg *pgx.ConnConfig) error {
	limitClose(cfg)
	if c.pooler.Load() {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	now, err := pgxpool.ParseConfig(c.url.Current())
	if err != nil {
		c.log.Error("the changed database url is not used", "error", err)
		return nil
	}
	cfg.User, cfg.Password = now.ConnConfig.User, now.ConnConfig.Password
	return nil
}

func (c *connector) afterConnect(ctx context.Context, conn *pgx.Conn) error {
	// Scan times as UTC, whatever the time zone of the process.
	conn.TypeMap().RegisterType(&pgtype.Type{
		Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
	})
	conn.PgConn().CustomData()[epochKey] = c.epoch.Load()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if c.pooler.Load() || modeIsSet(c.url.Reveal()) {
		return nil
	}
	pooler, err := behindPooler(ctx, conn)
	if err != nil || !pooler {
		return err
	}
	if !c.pooler.Swap(true) {
		c.log.Info("statements are not prepared: a connection pooler is in front of the database")
	}
	return errPooler
}

// modeIsSet reports whether a url sets how statements are prepared and executed.
func modeIsSet(url string) bool { return strings.Contains(url, "default_query_exec_mode") }

// behindPooler reports whether a pooler is in between, which may give each transaction another session. A
// pooler invents the process id that it reports for a session.
func behindPooler(ctx context.Context, conn *pgx.Conn) (bool, error) {
	results, err := conn.PgConn().Exec(ctx, "-- name: backendPID\nSELECT pg_backend_pid()").ReadAll()
	if err != nil {
		return false, err
	}
	return string(results[0].Rows[0][0]) != strconv.FormatUint(uint64(conn.PgConn().PID()), 10), nil
}

// left reports whether err means that the connection's server or session is no longer usable. If so, all
// connections of the same epoch are unusable, and left resets the pool.
func (c *connector) left(conn *pgconn.PgConn, err *pgconn.PgError) bool {
	switch err.Code {
	case "25006", // read-only: demoted
		"26000", "42P05", // the pooler has switched the session
		"57P01", "57P02", "57P03": // shutting down, or starting up
	default:
		return false
	}
	epoch, connected := conn.CustomData()[epochKey].(int64)
	pool := c.pool.Load()
	if connected && pool != nil && c.epoch.CompareAndSwap(epoch, epoch+1) {
		pool.Reset()
	}
	return true
}

// Writable returns a check for [NewHealth] that fails unless the database accepts writes.
func Writable(pool *pgxpool.Pool) func(context.Context) error {
	return func(ctx context.Context) error {
		var readOnly bool
		err := pool.QueryRow(ctx, `-- name: writable
SELECT current_setting('transaction_read_only')::bool`).Scan(&readOnly)
		if err == nil && readOnly {
			pool.Reset() // these connections are to a server that takes no writes
			err = errReadOnly
		}
		return err
	}
}

// ClosePool closes all connections properly. It waits for at most a second, and not beyond the end of ctx. A
// connection whose server hangs and has not answered by then ends with the process.
func ClosePool(ctx context.Context, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	return within(ctx, "close the database's connections", func(context.Context) error {
		pool.Close()
		return nil
	})
}
