package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// watcher polls for sagas that have become ready, on behalf of many clients.
type watcher struct {
	arrive chan waiter
}

// waiter is a client that waits for a signup.
type waiter struct {
	signup string
	seen   chan<- error
}

// watchEvery is the pause between two polls of the watcher, watchCrowd the pause when more than crowd clients
// wait. This limits the cost of polling, whatever the load.
const (
	watchEvery = 2 * time.Millisecond
	watchCrowd = 5 * time.Millisecond
	crowd      = 8
)

// sagaPatience is how long a saga may take before it counts as lost.
const sagaPatience = time.Minute

var errLostSaga = fmt.Errorf("a saga is not ready after %s", sagaPatience)

// newWatchPool connects as the administrator, so that the watcher's cost to the server can be told apart from
// that of the services. It finds signups by index even while the server estimates the table to be small.
func newWatchPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	c.MaxConns = 1
	c.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	return pgxpool.NewWithConfig(ctx, c)
}

func watchSagas(ctx context.Context, pool *pgxpool.Pool) (*watcher, func() error) {
	w := &watcher{arrive: make(chan waiter, connections)}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.run(ctx, pool) }()
	return w, func() error {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
}

// wait returns when the signup is ready.
func (w *watcher) wait(ctx context.Context, signup string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, sagaPatience, errLostSaga)
	defer cancel()
	seen := make(chan error, 1)
	select {
	case w.arrive <- waiter{signup, seen}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-seen:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *watcher) run(ctx context.Context, pool *pgxpool.Pool) error {
	waiting := map[string]chan<- error{}
	for {
		if err := w.collect(ctx, waiting); err != nil {
			return err
		}
		ids := make([]string, 0, len(waiting))
		for id := range waiting {
			ids = append(ids, id)
		}
		rows, err := pool.Query(ctx,
			"-- name: findReady\nSELECT signup_id FROM signup_saga WHERE signup_id = ANY($1) AND state = 'ready'", ids)
		if err != nil {
			return err
		}
		ready, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, id := range ready {
			waiting[id] <- nil
			delete(waiting, id)
		}
	}
}

// collect adds the clients that have begun to wait since the last poll. If no client waits, it blocks until one does.
func (w *watcher) collect(ctx context.Context, waiting map[string]chan<- error) error {
	pause := watchEvery
	if len(waiting) > crowd {
		pause = watchCrowd
	}
	rest := time.After(pause)
	for rest != nil || len(waiting) == 0 {
		select {
		case a := <-w.arrive:
			waiting[a.signup] = a.seen
		case <-rest:
			rest = nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
