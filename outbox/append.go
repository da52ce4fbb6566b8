package outbox

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
)

// Migrations holds migrations/*.sql in goose's format, and migrations/down with the statements that undo each of
// them. All are plain SQL with comments: psql and any migration tool can run them, in the order of their names.
// They create the SQL function outbox_create_lane; call it once per lane in a migration of your own.
//
//go:embed migrations/*.sql migrations/down/*.sql
var Migrations embed.FS

// Event is something that a transaction did and that other services need to know.
type Event struct {
	// Lane names the set of tables, and so the stream, that the event goes through.
	Lane string
	// ID is the CloudEvents id, a UUID in text form. It is the same each time the event is published.
	ID string
	// Key orders events: events of one key are first delivered in the order in which they were appended, if each
	// was appended while its transaction held a lock for the key, usually that of the row it just updated.
	Key string
	// Type is the CloudEvents type; the relay appends it to its subject prefix.
	Type string
	// Headers are sent as message headers, names unchanged. Names that begin with "Nats-" are not allowed: the
	// event dies.
	Headers map[string]string
	// Payload is the CloudEvents data, JSON by convention.
	Payload []byte
}

// AppendBatch queues the inserts of events. Sent without an explicit transaction, the whole batch is one
// implicit transaction and one round trip. Queue the business rows first and the events last, so that a failed
// transaction allocates no event id. An invalid event fails the batch.
func AppendBatch(b *pgx.Batch, events ...Event) {
	for _, e := range events {
		b.Queue(appendSQL(e.Lane), e.args()...)
	}
}

// Append inserts the events in tx, in one round trip. They exist if and only if
// tx commits. Append as late in the transaction as possible.
func Append(ctx context.Context, tx pgx.Tx, events ...Event) error {
	if len(events) == 0 {
		return nil
	}
	if isNil(tx) {
		return errNil("transaction")
	}
	b := new(pgx.Batch)
	AppendBatch(b, events...)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("append events: %w", err)
	}
	return nil
}

// Beginner begins transactions, as *pgxpool.Pool and *pgx.Conn do.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// InTx runs fn in a transaction, commits it, and then calls wake, which may be nil and is usually [Relay.Wake].
// If fn returns an error or panics, the transaction is rolled back and wake is not called. An error of the
// commit itself is ambiguous: the transaction may have been committed.
func InTx(ctx context.Context, db Beginner, wake func(), fn func(pgx.Tx) error) error {
	if isNil(db) {
		return errNil("pool")
	}
	if err := pgx.BeginFunc(ctx, db, fn); err != nil {
		return err
	}
	if wake != nil {
		wake()
	}
	return nil
}

func appendSQL(lane string) string {
	return "-- name: appendEvent\nINSERT INTO " + table("event", lane) +
		" (event_id, key, type, headers, payload) VALUES ($1, $2, $3, $4, $5)"
}

func (e Event) args() []any {
	headers := "{}" // text: in modes that do not describe the statement, pgx would send []byte as bytea
	if len(e.Headers) > 0 {
		b, _ := json.Marshal(e.Headers) // a map of strings always encodes
		headers = string(b)
	}
	payload := e.Payload
	if payload == nil {
		payload = []byte{}
	}
	return []any{e.ID, e.Key, e.Type, headers, payload}
}

// isNil reports whether v is nil or holds a nil pointer.
func isNil(v any) bool {
	p := reflect.ValueOf(v)
	return v == nil || p.Kind() == reflect.Pointer && p.IsNil()
}

func errNil(what string) error {
	return fmt.Errorf("outbox: the %s is nil: open it first", what)
}

// table returns the quoted name of a lane's table. The quoting makes any lane safe to use in SQL.
func table(kind, lane string) string {
	return pgx.Identifier{"outbox_" + kind + "_" + lane}.Sanitize()
}
