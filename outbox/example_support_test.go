package outbox_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

// exampleTB implements the part of testing.TB that examples need, so that they can call test helpers. Any other
// method ends the example with a nil dereference.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (e *exampleTB) Helper()          {}
func (e *exampleTB) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }
func (e *exampleTB) Errorf(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
}

func (e *exampleTB) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// servers gives an example a database with the lane "essential", a broker, and a context that ends before they
// do.
func servers() (ctx context.Context, pool *pgxpool.Pool, nc *nats.Conn, end func()) {
	t := &exampleTB{}
	url, broker := testenv.Database(t, "example", outbox.Migrate), testenv.NATS(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(pool.Close)
	nc, err = nats.Connect(broker.URL)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(nc.Close)
	t.Cleanup(cancel)
	return ctx, pool, nc, func() {
		for _, f := range slices.Backward(t.cleanups) {
			f()
		}
	}
}

// receive returns the first n messages of a stream, for a new reader.
func receive(ctx context.Context, nc *nats.Conn, stream string, n int) []jetstream.Msg {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil
	}
	var all []jetstream.Msg
	for ctx.Err() == nil && len(all) < n {
		c, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{OptStartSeq: uint64(len(all) + 1),
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy})
		if err != nil {
			continue // the relay has not created the stream yet
		}
		batch, err := c.Fetch(n-len(all), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			continue
		}
		for m := range batch.Messages() {
			all = append(all, m)
		}
	}
	return all
}
