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
	// closeLimit is how long a connection or a pool may take to say goodbye where nothing else
	// bounds it.
	closeLimit = time.Second
	// pingTimeout bounds the question whether an idle connection still leads anywhere.
	pingTimeout = time.Second
	// statementTimeout bounds each statement of a pool, whatever else does not: a server may
	// vanish without a word, and TCP gives it up after a quarter of an hour.
	statementTimeout = 10 * time.Second
)

// Errors about the server that a connection leads to.
var (
	errPooler   = errors.New("a connection pooler is in between: connect again without prepared statements")
	errReadOnly = errors.New("the database is read-only")
)

// OpenPool opens a pool and waits, with back-off, until Postgres answers; it
// fails only for a malformed url or when ctx ends. Unless the url sets them, a
// connection attempt takes at most 2 s (connect_timeout), the pool has 16 connections
// (pool_max_conns), and of several hosts it uses the one that takes writes
// (target_session_attrs).
//
// A connection whose server was demoted or is shutting down is closed at its first
// error, and with it all that are idle: the next ones lead to the new primary. Behind a
// connection pooler such as PgBouncer nothing is prepared in the session, unless the url
// sets default_query_exec_mode.
//
// A statement ends after 10 s at the latest, and so does what it holds.
func OpenPool(ctx context.Context, url string, log *slog.Logger) (*pgxpool.Pool, error) {
	return openPool(ctx, NewSecret(url), log, nil)
}

func openPool(ctx context.Context, url Secret, log *slog.Logger, f *fault) (*pgxpool.Pool, error) {
	c := connector{url: url, log: log}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	observers := observed{querySpans{}, patience(statementTimeout)}
	if f != nil {
		observers = append(observers, f)
	}
	cfg.ConnConfig.Tracer = observers
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	c.pool.Store(pool)
	ping := func(ctx context.Context) error {
		err := pool.Ping(ctx)
		if errors.Is(err, errPooler) { // that is known now
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

// connector makes the connections of a pool, and knows what they found out.
type connector struct {
	url    Secret
	log    *slog.Logger
	pool   atomic.Pointer[pgxpool.Pool]
	pooler atomic.Bool  // between us and Postgres
	epoch  atomic.Int64 // grows when the pool is reset
}

// epochKey finds the epoch of a connection in its custom data.
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
	cfg.BeforeConnect, cfg.AfterConnect, cfg.BeforeClose = c.beforeConnect, c.afterConnect, hangUp
	fatal := cfg.ConnConfig.OnPgError
	cfg.ConnConfig.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		return fatal(conn, err) && !c.left(conn, err)
	}
	return cfg, nil
}

// boundGoodbye bounds how long a connection of this configuration takes to end. It holds
// its place in the pool until then, and pgx would wait 15 s for a server that is gone.
func boundGoodbye(cfg *pgx.ConnConfig) {
	dial, made := cfg.DialFunc, new(atomic.Bool)
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil && made.Load() { // it only asks the server to cancel a statement
			err = conn.SetDeadline(time.Now().Add(closeLimit))
		}
		return conn, err
	}
	cfg.AfterConnect = func(context.Context, *pgconn.PgConn) error {
		made.Store(true)
		return nil
	}
}

// hangUp closes a connection that does not end in order.
func hangUp(conn *pgx.Conn) {
	time.AfterFunc(closeLimit, func() { _ = conn.PgConn().Conn().Close() })
}

// patience is how long a statement may take.
type patience time.Duration

type patienceKey struct{}

func (p patience) started(ctx context.Context, _ *pgx.Conn, _ string) context.Context {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p))
	return context.WithValue(ctx, patienceKey{}, cancel)
}

func (patience) ended(ctx context.Context, _ error) {
	if cancel, ok := ctx.Value(patienceKey{}).(context.CancelFunc); ok {
		cancel()
	}
}

// beforeConnect follows the url's file: role and password may change while the pool
// lives. Hosts stay as they are until a restart: connections to two databases at a time
// would be worse than none.
func (c *connector) beforeConnect(_ context.Context, cfg *pgx.ConnConfig) error {
	boundGoodbye(cfg)
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
	// Times are shown in UTC, wherever a process runs.
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

// modeIsSet reports whether a url says what is prepared in a session.
func modeIsSet(url string) bool { return strings.Contains(url, "default_query_exec_mode") }

// behindPooler reports whether something in between, which may give each transaction
// another session, made up the process id of the session.
func behindPooler(ctx context.Context, conn *pgx.Conn) (bool, error) {
	results, err := conn.PgConn().Exec(ctx, "-- name: backendPID\nSELECT pg_backend_pid()").ReadAll()
	if err != nil {
		return false, err
	}
	return string(results[0].Rows[0][0]) != strconv.FormatUint(uint64(conn.PgConn().PID()), 10), nil
}

// left reports whether err says that the connection leads to a server, or a session,
// that is of no use any more. Then the other connections of its time do as well.
func (c *connector) left(conn *pgconn.PgConn, err *pgconn.PgError) bool {
	switch err.Code {
	case "25006", // read-only: demoted
		"26000", "42P05", // of a session that a pooler has swapped
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

// Writable returns a check for [NewHealth]: whether the database takes writes.
func Writable(pool *pgxpool.Pool) func(context.Context) error {
	return func(ctx context.Context) error {
		var readOnly bool
		err := pool.QueryRow(ctx, `-- name: writable
SELECT current_setting('transaction_read_only')::bool`).Scan(&readOnly)
		if err == nil && readOnly {
			pool.Reset() // these connections lead nowhere
			err = errReadOnly
		}
		return err
	}
}

// ClosePool closes all connections in order, for a second at most and not beyond the end of
// ctx: what a server that hangs has not answered by then ends with the process.
func ClosePool(ctx context.Context, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	return within(ctx, "close the database's connections", func(context.Context) error {
		pool.Close()
		return nil
	})
}
