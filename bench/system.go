package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/signup-saga/signup-saga/outbox"
)

// system moves events from Postgres into the stream of a site.
type system interface {
	// fill commits n events as a backlog, as fast as the system allows.
	fill(ctx context.Context, n int) error
	// append adds event number n of the run to a transaction.
	append(ctx context.Context, tx pgx.Tx, n int) error
	// start relays until the returned function is called.
	start(ctx context.Context) (stop func() error, err error)
	// wake is called after each commit.
	wake()
}

// maker makes a system at a site, with the tables that it needs.
type maker struct {
	name string
	make func(ctx context.Context, s *site) (system, error)
}

var payload = []byte(`{"padding":"` + strings.Repeat("x", payloadSize-len(`{"padding":""}`)) + `"}`)

// newEvent returns event number n of a run.
func newEvent(n int) outbox.Event {
	return outbox.Event{Lane: lane, ID: eventID(n), Key: fmt.Sprint(n % 1000), Type: eventType, Payload: payload}
}

// ours is the outbox of this repository.
type ours struct {
	*site
	relay  *outbox.Relay
	leader bool // a relay in another process leads; this one stands by
}

var outboxMaker = maker{"outbox", func(_ context.Context, s *site) (system, error) { return &ours{site: s}, nil }}

// replicasMaker runs two replicas and commits in the process of the one that stands by.
var replicasMaker = maker{"outbox, two replicas",
	func(_ context.Context, s *site) (system, error) { return &ours{site: s, leader: true}, nil }}

// fill inserts within the server. The rows are the same as those of Append.
func (o *ours) fill(ctx context.Context, n int) error {
	const chunk = 50_000
	for n > 0 {
		size := min(n, chunk)
		first := o.take(size)
		_, err := o.clients.Exec(ctx, `-- name: fillOutbox
INSERT INTO outbox_event_`+lane+` (event_id, key, type, headers, payload)
SELECT ($1 || lpad(to_hex(i), 12, '0'))::uuid, (i % 1000)::text, $2, '{}', $3
    FROM generate_series($4::bigint, $5::bigint) i`,
			idPrefix, eventType, payload, first, first+size-1)
		if err != nil {
			return err
		}
		n -= size
	}
	return nil
}

func (o *ours) append(ctx context.Context, tx pgx.Tx, n int) error {
	return outbox.Append(ctx, tx, newEvent(n))
}

func (o *ours) wake() { o.relay.Wake() }

func (o *ours) start(ctx context.Context) (func() error, error) {
	var leader *server
	if o.leader {
		cmd, err := asChild(childReplica, o.url, o.broker, o.name)
		if err != nil {
			return nil, err
		}
		if leader, err = launch(ctx, "LEADING=", cmd); err != nil {
			return nil, err
		}
	}
	var led atomic.Bool
	relay, stop, err := o.run(ctx, func() { led.Store(true) })
	if err != nil {
		return nil, errors.Join(err, leader.close())
	}
	o.relay = relay
	return func() error {
		err := errors.Join(stop(), leader.close())
		if o.leader && led.Load() {
			err = errors.Join(err, errors.New("the replica that should stand by has led"))
		}
		return err
	}, nil
}

// run runs a relay with its own connections.
func (o *ours) run(ctx context.Context, led func()) (*outbox.Relay, func() error, error) {
	nc, _, err := connect(o.broker)
	if err != nil {
		return nil, nil, err
	}
	pool, err := newPool(ctx, o.url, 4)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	relay, err := newRelay(o.site, pool, nc, led)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	return relay, func() error {
		cancel()
		err := <-done
		nc.Close()
		pool.Close()
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}, nil
}

func newRelay(s *site, pool *pgxpool.Pool, nc *nats.Conn, led func()) (*outbox.Relay, error) {
	return outbox.NewRelay(outbox.RelayConfig{
		Lane: lane, Pool: pool, NATS: nc, Stream: s.stream(), Source: source, SubjectPrefix: s.name + ".",
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Hooks: outbox.Hooks{Led: func(leading bool) {
			if leading {
				led()
			}
		}},
	})
}
