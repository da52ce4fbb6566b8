package outbox_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/outboxtest"
)

func Example_quickStart() {
	ctx, pool, nc, end := servers()
	defer end()
	_, _ = pool.Exec(ctx,
		"CREATE TABLE orders (id int PRIMARY KEY, state text NOT NULL); INSERT INTO orders VALUES (7, 'new')")
	relay, err := newRelay(pool, nc)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer run(ctx, relay)()
	if err := payOrder(ctx, pool, relay, 7); err != nil {
		fmt.Println(err)
	}
	for _, m := range receive(ctx, nc, "ORDERS", 1) {
		fmt.Println(m.Subject(), m.Headers().Get("ce-subject"), string(m.Data()))
	}
	// Output: orders.paid order-7 {"order": 7}
}

// events returns n events of one key.
func events(n int) []outbox.Event {
	var out []outbox.Event
	for i := range n {
		out = append(out, outbox.Event{Lane: "essential", ID: fmt.Sprintf("0192d3a0-6c1e-7a52-9f5b-%012d", i+1),
			Key: "order-7", Type: "changed", Payload: fmt.Appendf(nil, `{"version":%d}`, i+1)})
	}
	return out
}

func appendEvents(ctx context.Context, pool *pgxpool.Pool, events ...outbox.Event) error {
	return outbox.InTx(ctx, pool, nil, func(tx pgx.Tx) error { return outbox.Append(ctx, tx, events...) })
}

// start runs a relay until the returned function is called.
func start(ctx context.Context, pool *pgxpool.Pool, nc *nats.Conn, hooks outbox.Hooks) (stop func()) {
	relay, err := outbox.NewRelay(outbox.RelayConfig{
		Lane: "essential", Pool: pool, NATS: nc, Stream: outbox.StreamConfig("ORDERS", []string{"orders.>"}, 1),
		Source: "/shop", SubjectPrefix: "orders.", Hooks: hooks,
	})
	if err != nil {
		fmt.Println(err)
		return func() {}
	}
	return run(ctx, relay)
}

func run(ctx context.Context, relay *outbox.Relay) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = relay.Run(ctx) // ctx's error
	}()
	return func() { cancel(); <-done }
}

// An event exists if and only if the transaction that appends it commits.
func ExampleAppend() {
	ctx, pool, _, end := servers()
	defer end()
	for _, finish := range []func(pgx.Tx) error{
		func(tx pgx.Tx) error { return tx.Rollback(ctx) },
		func(tx pgx.Tx) error { return tx.Commit(ctx) },
	} {
		tx, err := pool.Begin(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		// Write the rows of your own tables first, and append the events last.
		if err := outbox.Append(ctx, tx, events(1)...); err != nil {
			fmt.Println(err)
		}
		if err := finish(tx); err != nil {
			fmt.Println(err)
		}
		status, _ := outbox.ReadStatus(ctx, pool, "essential")
		fmt.Println("to be published:", !status.OldestPending.IsZero())
	}
	// Output:
	// to be published: false
	// to be published: true
}

func ExampleRelay_Run() {
	ctx, pool, nc, end := servers()
	defer end()
	stop := start(ctx, pool, nc, outbox.Hooks{})
	defer stop()
	if err := appendEvents(ctx, pool, events(2)...); err != nil {
		fmt.Println(err)
	}
	for _, m := range receive(ctx, nc, "ORDERS", 2) {
		fmt.Println(m.Subject(), string(m.Data()))
	}
	// Output:
	// orders.changed {"version":1}
	// orders.changed {"version":2}
}

// A consumer keeps its own state in the transaction in which it acts, so a message that is delivered again
// changes nothing.
func Example_consumeIdempotently() {
	ctx, pool, nc, end := servers()
	defer end()
	stop := start(ctx, pool, nc, outbox.Hooks{})
	_, _ = pool.Exec(ctx, "CREATE TABLE shown (key text PRIMARY KEY, version int NOT NULL)")
	if err := appendEvents(ctx, pool, events(2)...); err != nil {
		fmt.Println(err)
	}
	handle := func(m jetstream.Msg) error {
		tag, err := pool.Exec(ctx, `INSERT INTO shown VALUES ($1, ($2::json->>'version')::int)
ON CONFLICT (key) DO UPDATE SET version = excluded.version WHERE shown.version < excluded.version`,
			m.Headers().Get("ce-subject"), m.Data())
		fmt.Println(string(m.Data()), "changes something:", err == nil && tag.RowsAffected() == 1)
		return err
	}
	receive(ctx, nc, "ORDERS", 2)
	stop()
	if err := outbox.ReplaySince(ctx, pool, "essential", time.Time{}); err != nil { // everything is delivered again
		fmt.Println(err)
	}
	defer start(ctx, pool, nc, outbox.Hooks{})()
	for _, m := range receive(ctx, nc, "ORDERS", 4) {
		if err := handle(m); err != nil {
			fmt.Println(err) // and do not acknowledge
		}
	}
	// Output:
	// {"version":1} changes something: true
	// {"version":2} changes something: true
	// {"version":1} changes something: false
	// {"version":2} changes something: false
}

// The acknowledgement of the first batch is lost; the event still arrives once.
func Example_testMyService() {
	ctx, pool, nc, end := servers()
	defer end()
	lost := outboxtest.FailAfter(outboxtest.Publish, 1)
	if err := appendEvents(ctx, pool, events(1)...); err != nil {
		fmt.Println(err)
	}
	recovered := make(chan int, 1)
	stop := start(ctx, pool, nc, outbox.Hooks{Fault: lost.Hook, Recovered: func(n int) { recovered <- n }})
	fmt.Println("found in the stream:", <-recovered)
	stop()
	js, _ := jetstream.New(nc)
	stream, err := js.Stream(ctx, "ORDERS")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("faults:", lost.Fired(), "messages:", stream.CachedInfo().State.Msgs)
	// Output:
	// found in the stream: 1
	// faults: 1 messages: 1
}

// Hooks feed any metrics library: Prometheus, OpenTelemetry, expvar.
func ExampleHooks() {
	ctx, pool, nc, end := servers()
	defer end()
	var published, dead atomic.Int64
	stop := start(ctx, pool, nc, outbox.Hooks{
		Published: func(batch []*nats.Msg, _ time.Time) { published.Add(int64(len(batch))) },
		Died:      func(string, error) { dead.Add(1) },
	})
	good := events(3)
	good[1].Headers = map[string]string{"Nats-Msg-Id": "not allowed"}
	if err := appendEvents(ctx, pool, good...); err != nil {
		fmt.Println(err)
	}
	receive(ctx, nc, "ORDERS", 2)
	stop() // waits for the batch in flight
	fmt.Println("published:", published.Load(), "dead:", dead.Load())
	// Output: published: 2 dead: 1
}

// A consumer has lost what it derived from yesterday's events.
func ExampleReplaySince() {
	ctx, pool, nc, end := servers()
	defer end()
	stop := start(ctx, pool, nc, outbox.Hooks{})
	if err := appendEvents(ctx, pool, events(1)...); err != nil {
		fmt.Println(err)
	}
	receive(ctx, nc, "ORDERS", 1)
	stop() // optional: a running relay notices within seconds
	if err := outbox.ReplaySince(ctx, pool, "essential", time.Now().Add(-24*time.Hour)); err != nil {
		fmt.Println(err)
	}
	defer start(ctx, pool, nc, outbox.Hooks{})()
	for _, m := range receive(ctx, nc, "ORDERS", 2) {
		fmt.Println(m.Headers().Get("ce-id"))
	}
	// Output:
	// 0192d3a0-6c1e-7a52-9f5b-000000000001
	// 0192d3a0-6c1e-7a52-9f5b-000000000001
}
