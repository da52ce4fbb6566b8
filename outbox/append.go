package outbox

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
)

// Migrations holds migrations/*.sql in goose's format, and in migrations/down
// what takes each of them back. All are plain SQL with comments: psql and any
// migration tool can run them, in the order of their names. They create the SQL
// function outbox_create_lane; call it once per lane in a migration of your own.
//
//go:embed migrations/*.sql migrations/down/*.sql
var Migrations embed.FS

// Event is something that happened in a transaction and that others shall hear of.
type Event struct {
	// Lane names the set of tables, and with it the stream, that the event goes through.
	Lane string
	// ID is the CloudEvents id, a UUID in text form. It stays the same however
	// often the event is published.
	ID string
	// Key orders events: those of one key are first delivered in the order in
	// which they were appended, if each was appended while its transaction held
	// a lock that belongs to the key, usually that of the row it just updated.
	Key string
	// Type is the CloudEvents type; the relay appends it to its subject prefix.
	Type string
	// Headers travel as message headers, names unchanged. Names that begin with
	// "Nats-" are refused.
	Headers map[string]string
	// Payload is the CloudEvents data, JSON by convention.
	Payload []byte
}

// AppendBatch queues the events' inserts. Sent without an explicit transaction,
// the whole batch is one implicit transaction and one round trip: queue the
// business rows first and the events last, so that a failed transaction draws
// no id. An invalid event fails the batch.
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

// Beginner begins transactions; *pgxpool.Pool and *pgx.Conn do.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// InTx runs fn in a transaction, commits it, and only then calls wake, which
// may be nil and is usually [Relay.Wake]. An error of fn, or a panic, rolls
// back and leaves no trace. An error of the commit itself is ambiguous: the
// transaction may have happened.
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
	headers := "{}" // text: without a description of the statement, pgx would send bytes as bytea
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

// table returns the quoted name of a lane's table, safe whatever the lane.
func table(kind, lane string) string {
	return pgx.Identifier{"outbox_" + kind + "_" + lane}.Sanitize()
}
