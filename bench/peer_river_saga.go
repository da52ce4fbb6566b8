package main

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// riverSagas runs the saga as two River jobs in one process. The signup inserts the first job with its own rows.
// Each job completes in the transaction of its own writes, and the first job inserts the second one there.
type riverSagas struct {
	*riverSystem
	provider *provider
	waiting  sync.Map // of channels by saga id
}

// provisionArgs are the arguments of the job that creates a storage.
type provisionArgs struct {
	MemberID string `json:"member_id"`
	SagaID   string `json:"saga_id"`
}

// Kind names the job.
func (provisionArgs) Kind() string { return "provision" }

// readyArgs are the arguments of the job that makes a saga ready.
type readyArgs struct {
	SagaID string `json:"saga_id"`
}

// Kind names the job.
func (readyArgs) Kind() string { return "ready" }

type provisionWorker struct {
	river.WorkerDefaults[provisionArgs]
	*riverSagas
}

// Work creates the storage and inserts the next job.
func (w *provisionWorker) Work(ctx context.Context, job *river.Job[provisionArgs]) error {
	if err := w.provider.create(job.Args.MemberID); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.backend, func(tx pgx.Tx) error {
		b := new(pgx.Batch)
		queueProvisioned(b, job.Args.MemberID)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		_, err := w.client.InsertTx(ctx, tx, readyArgs{job.Args.SagaID}, nil)
		return completed(ctx, tx, job, err)
	})
}

type readyWorker struct {
	river.WorkerDefaults[readyArgs]
	*riverSagas
}

// Work makes the saga ready and wakes the client that waits for it.
func (w *readyWorker) Work(ctx context.Context, job *river.Job[readyArgs]) error {
	err := pgx.BeginFunc(ctx, w.backend, func(tx pgx.Tx) error {
		b := new(pgx.Batch)
		queueReady(b, job.Args.SagaID)
		return completed(ctx, tx, job, tx.SendBatch(ctx, b).Close())
	})
	if err != nil {
		return err
	}
	if done, ok := w.waiting.LoadAndDelete(job.Args.SagaID); ok {
		close(done.(chan struct{}))
	}
	return nil
}

// completed completes the job in tx unless there was an error.
func completed[T river.JobArgs](ctx context.Context, tx pgx.Tx, job *river.Job[T], err error) error {
	if err != nil {
		return err
	}
	_, err = river.JobCompleteTx[*riverDriver](ctx, tx, job)
	return err
}

// newRiverSagas returns the peer with the configuration of one of the makers.
func newRiverSagas(ctx context.Context, s *site, p *provider, config river.Config) (*riverSagas, error) {
	r := &riverSagas{provider: p}
	config.Workers = river.NewWorkers()
	river.AddWorker(config.Workers, &provisionWorker{riverSagas: r})
	river.AddWorker(config.Workers, &readyWorker{riverSagas: r})
	var err error
	r.riverSystem, err = newRiver(ctx, s, config)
	return r, err
}

func (r *riverSagas) signUp(ctx context.Context) error {
	m, err := newMember()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	r.waiting.Store(m.saga, done)
	err = pgx.BeginFunc(ctx, r.clients, func(tx pgx.Tx) error {
		b := new(pgx.Batch)
		queueSignup(b, m)
		queueStorage(b, m)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		_, err := r.client.InsertTx(ctx, tx, provisionArgs{m.id, m.saga}, nil)
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sagaPatience, errLostSaga)
	defer cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
