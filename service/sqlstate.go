package service

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/signup-saga/signup-saga/outbox"
)

// verdict is what a Postgres error means for the caller that sent the statement.
type verdict int

const (
	// defect: the statement, its data or the schema is wrong. Sending it again does not help.
	defect verdict = iota
	// notNow: the server cannot work at the moment. The outcome of a commit may be unknown.
	notNow
	// undone: nothing happened, and the same transaction may succeed at once.
	undone
)

// verdicts classifies the codes of the appendix "PostgreSQL Error Codes". An entry for a code of five
// characters takes precedence over one for its class of two. Classes that are not listed are defects.
var verdicts = map[string]verdict{
	"08": notNow, // connection exception; PgBouncer reports all its own errors as 08P01

	"0A000": defect, // feature not supported, but see stalePlan

	"25006": notNow, // read-only transaction: the server was demoted, or is being promoted
	"25P03": notNow, // idle in transaction for too long: this process was suspended
	"25P04": notNow, // transaction timeout: the connection is gone with the transaction

	"26000": notNow, // a prepared statement is gone: the pooler gave us another session
	"28":    notNow, // access refused: a role or a password is just being replaced
	"3D000": notNow, // the database does not exist: it is being created or restored

	"40":    undone, // rolled back: serialization failure (40001), deadlock (40P01)
	"40002": defect, // integrity constraint violation: the same rows would violate it again
	"40003": notNow, // completion unknown: never repeated blindly

	"42P05": notNow, // a prepared statement exists already: the pooler gave us another session

	"53":    notNow, // resources: disk full, out of memory, too many locks
	"53300": undone, // too many connections: this one never began, and another one may become free

	"54000": notNow, // a limit: our statements reach only the one that stops writes before xid wraparound

	"55000": notNow, // not in the prerequisite state: the server is in recovery
	"55006": notNow, // object in use: a database is being copied or dropped
	"55P03": undone, // a lock was not available in lock_timeout

	"57":    notNow, // operator intervention: shutdown, crash, starting up, database dropped
	"57014": undone, // cancelled: statement_timeout, or a person

	"58": notNow, // the server's own files fail, not the statement
	"72": undone, // the snapshot is too old: another try gets a new one
}

func classify(err *pgconn.PgError) verdict {
	if stalePlan(err) {
		return undone
	}
	if v, ok := verdicts[err.Code]; ok {
		return v
	}
	if len(err.Code) != 5 {
		return defect
	}
	return verdicts[err.Code[:2]]
}

// stalePlan reports whether a migration changed the result columns of a prepared statement. pgx prepares it
// again for its next use.
func stalePlan(err *pgconn.PgError) bool {
	return err.Code == "0A000" && err.Routine == "RevalidateCachedQuery"
}

// ErrConflict ends a transaction whose rows were changed after it read them. Nothing was written, and another
// try may succeed.
var ErrConflict = errors.New("another transaction changed the same rows at the same time")

// Unavailable reports whether err means that the database could not be reached, or could not do the work at
// this time, rather than that it refused the work. The outcome of a commit that failed in this way is unknown.
func Unavailable(err error) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) { // whatever the server said, it accepts no connection
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return classify(pg) != defect
	}
	var network net.Error
	return errors.As(err, &network) || pgconn.Timeout(err) || pgconn.SafeToRetry(err) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, puddle.ErrClosedPool) ||
		errors.Is(err, errPooler) || errors.Is(err, ErrConflict)
}

// repeatable reports whether err means that nothing happened and another try may succeed.
func repeatable(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, ErrConflict) || errors.As(err, &pg) && classify(pg) == undone
}

// maxRepeats bounds [Repeat]. Its pauses add up to at most about a second.
const maxRepeats = 8

// Repeat calls fn until it succeeds, up to eight times and with back-off, as long as Postgres says that it
// undid the transaction and that another try may succeed, or fn returns [ErrConflict]. Any other error is
// returned at once, also one that leaves the outcome unknown. fn must be safe to run again, and should be
// bounded by ctx: when ctx ends, Repeat returns the last error.
func Repeat(ctx context.Context, fn func() error) error {
	for attempt := 1; ; attempt++ {
		err := fn()
		if err == nil || attempt == maxRepeats || !repeatable(err) {
			return err
		}
		pause(ctx, Backoff(attempt, 10*time.Millisecond, 300*time.Millisecond))
		if ctx.Err() != nil {
			return err
		}
	}
}

// Do runs fn in a transaction as [outbox.InTx] does, and repeats it as [Repeat] does.
func (t Transactor) Do(ctx context.Context, wake func(), fn func(pgx.Tx) error) error {
	return Repeat(ctx, func() error { return outbox.InTx(ctx, t, wake, fn) })
}
