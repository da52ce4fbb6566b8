// Package store keeps members, their sagas, mails and notices in Postgres. It owns the Member database: no other
// package runs SQL on its tables. One transaction writes everything that belongs together: the rows, the timeline,
// the operator's audit row and the outbox events.
//
// Times come from the database's clock; order comes from versions. A Store is safe for concurrent use. Its
// errors are Postgres errors unless documented otherwise.
package store

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the database's migrations, in order: the outbox's, then those of this service.
var Migrations = service.MigrationSets(migrations, "member_version")

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("no such signup")
	ErrTaken    = errors.New("the username or the idempotency key exists already")
	ErrStale    = errors.New("the saga has changed to another version")
)

// QuotaBytes is the size of each plan's storage.
var QuotaBytes = map[string]int64{"free": 5 << 30, "plus": 100 << 30, "pro": 1 << 40}

// Store reads and writes the Member database.
type Store struct {
	pool   *pgxpool.Pool
	tx     service.Transactor
	steps  saga.Steps
	secret []byte
	wake   func()

	// Tracer records a span for each change of a saga that belongs to a trace or starts one; nil for none. Set
	// it before use.
	Tracer *service.Tracer

	// Log receives what the database rejects; nil for the default logger. Set it before use.
	Log *slog.Logger

	maxMatched int // [MaxMatched], except in tests
}

// New returns a store whose sagas go through steps. The secret keys the HMACs under which usernames stay taken
// after members leave. The store calls wake after each commit that may have appended outbox events; wake must
// not block.
func New(pool *pgxpool.Pool, steps saga.Steps, secret []byte, wake func()) *Store {
	return &Store{pool: pool, tx: service.Transactor{Pool: pool}, steps: steps, secret: secret,
		wake: wake, maxMatched: MaxMatched}
}

func (s *Store) logger() *slog.Logger { return cmp.Or(s.Log, slog.Default()) }

// Record is a saga with the facts shown with it, and the database's time when it was read.
type Record struct {
	saga.Saga
	Username    *string // nil once the member has left
	UsernameKey *string
	Plan        string
	TraceParent string // trace context that the newest command belongs to; "" for none
	Now         time.Time
}

// Columns are listed by name, because a later version may add some while this one runs.
var (
	recordColumns = `s.id, s.member_id, s.signup_id, s.state, s.step, s.generation, s.version, s.redrives,
       s.retry_open, s.retried,
       ` + sane("s.opened_at") + " AS opened_at, " + sane("s.commanded_at") + ` AS commanded_at,
       CASE WHEN s.due_at IS NOT NULL THEN ` + sane("s.due_at") + ` END AS due_at,
       s.error_class, s.error_message, s.error_fingerprint,
       ` + sane("s.created_at") + " AS created_at, " + sane("s.updated_at") + ` AS updated_at,
       s.traceparent, m.username, m.username_key, m.plan, now() AS now`
	selectRecord = "SELECT " + recordColumns + recordTables
)

const recordTables = ` FROM signup_saga s JOIN member m ON m.id = s.member_id`

// sane clamps a time from a damaged row: Go cannot read an infinite one, and years in JSON have four digits.
// WHERE and ORDER BY use the bare column, so that its index applies.
func sane(column string) string {
	return "least(greatest(" + column + ", timestamptz '1970-01-01 00:00Z'), timestamptz '9999-12-30 00:00Z')"
}

// Find returns the signup with this signup id, or [ErrNotFound].
func (s *Store) Find(ctx context.Context, signupID string) (Record, error) {
	rows, _ := s.pool.Query(ctx, "-- name: findSignup\n"+selectRecord+" WHERE s.signup_id = $1", signupID)
	return one[Record](rows)
}

// Message returns an event of a saga, to be published. It uses the record's ids, generation, plan, state and trace
// only.
func Message(r Record, what contract.Type) (outbox.Event, error) {
	generation := min(r.Generation, contract.MaxGeneration) // an older version stored higher ones
	command := contract.StorageCommand{MemberID: r.MemberID, SagaID: r.ID, Generation: generation}
	if !r.State.Left() {
		command.QuotaBytes = QuotaBytes[r.Plan]
	}
	var data interface{ Validate() error } = command
	if what == contract.MemberSignedUp {
		data = contract.SignedUp{MemberID: r.MemberID, SagaID: r.ID}
	}
	return service.NewEvent(contract.Event{
		Type: what, Subject: r.MemberID, SagaID: r.ID, Generation: generation, TraceParent: r.TraceParent,
	}, data)
}

// one scans the only row, or reports ErrNotFound.
func one[T any](rows pgx.Rows) (T, error) {
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	return v, notFound(err)
}

func notFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
