// Package relaytest runs a relay on real servers, for the tests and examples of the adapters.
package relaytest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

// Example implements the part of testing.TB that examples need, so that they can call test helpers. Any other
// method ends the example with a nil dereference.
type Example struct {
	testing.TB
	cleanups []func()
}

// Helper does nothing.
func (e *Example) Helper() {}

// Cleanup keeps f for End.
func (e *Example) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }

// Errorf prints to standard output, so that the example's output no longer matches.
func (e *Example) Errorf(format string, a ...any) { fmt.Printf(format+"\n", a...) }

// Fatalf ends the process.
func (e *Example) Fatalf(format string, a ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", a...)
	os.Exit(1)
}

// End runs the functions that Cleanup kept, last one first.
func (e *Example) End() {
	for _, f := range slices.Backward(e.cleanups) {
		f()
	}
}

// Servers starts a broker and creates a database with the lane "essential". The returned context ends before
// they do.
func Servers(t testing.TB) (context.Context, *pgxpool.Pool, *testenv.NATSServer) {
	t.Helper()
	url, broker := testenv.Database(t, "outbox", migrate), testenv.NATS(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(pool.Close)
	t.Cleanup(cancel)
	return ctx, pool, broker
}

func migrate(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	files, err := fs.Glob(outbox.Migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	for _, file := range files {
		sql, err := fs.ReadFile(outbox.Migrations, file)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, string(sql)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	_, err = conn.Exec(ctx, "SELECT outbox_create_lane('essential')")
	return err
}

// Connect connects to the broker. The connection closes when t ends.
func Connect(t testing.TB, broker *testenv.NATSServer) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(broker.URL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Start runs a relay until t ends or stop is called.
func Start(ctx context.Context, t testing.TB, pool *pgxpool.Pool, nc *nats.Conn, hooks outbox.Hooks) (stop func()) {
	t.Helper()
	relay, err := outbox.NewRelay(outbox.RelayConfig{
		Lane: "essential", Pool: pool, NATS: nc, Stream: outbox.StreamConfig("ORDERS", []string{"orders.>"}, 1),
		Source: "/shop", SubjectPrefix: "orders.", Hooks: hooks,
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = relay.Run(ctx) // ctx's error
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// Append commits events.
func Append(ctx context.Context, t testing.TB, pool *pgxpool.Pool, events ...outbox.Event) {
	t.Helper()
	if err := outbox.InTx(ctx, pool, nil,
		func(tx pgx.Tx) error { return outbox.Append(ctx, tx, events...) }); err != nil {
		t.Fatalf("%v", err)
	}
}

// Event returns the i-th event of a test.
func Event(i int) outbox.Event {
	return outbox.Event{Lane: "essential", ID: fmt.Sprintf("0192d3a0-6c1e-7a52-9f5b-%012d", i), Key: "order-7",
		Type: "paid", Payload: []byte(`{"order":7}`)}
}
