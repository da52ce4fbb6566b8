package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type riverDriver = riverpgxv5.Driver

var (
	riverDefault = maker{"River", publishWithRiver(riverDefaultConfig)}
	riverTuned   = maker{"River, tuned", publishWithRiver(riverTunedConfig)}
)

func riverDefaultConfig() river.Config {
	return river.Config{Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}}}
}

// riverTunedConfig is what River's documentation recommends for throughput and latency.
func riverTunedConfig() river.Config {
	return river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 1000}},
		FetchCooldown:     time.Millisecond,
		FetchPollInterval: 50 * time.Millisecond,
		JobTimeout:        -1,
	}
}

func publishWithRiver(config func() river.Config) func(ctx context.Context, s *site) (system, error) {
	return func(ctx context.Context, s *site) (system, error) {
		c := config()
		c.Workers = river.NewWorkers()
		river.AddWorker(c.Workers, &publishWorker{js: s.js, subject: s.subject()})
		return newRiver(ctx, s, c)
	}
}

// riverSystem keeps events as River jobs, whose worker publishes them.
type riverSystem struct {
	*site
	client *river.Client[pgx.Tx]
}

// publishArgs are the arguments of the job that publishes one event.
type publishArgs struct {
	ID   string `json:"id"`
	Data string `json:"data"`
}

// Kind names the job.
func (publishArgs) Kind() string { return "publish" }

type publishWorker struct {
	river.WorkerDefaults[publishArgs]
	js      jetstream.JetStream
	subject string
}

// Work publishes the event and waits until it is stored. NATS recognises a retry after a lost acknowledgement by
// its message id.
func (w *publishWorker) Work(ctx context.Context, job *river.Job[publishArgs]) error {
	m := nats.NewMsg(w.subject)
	m.Header["ce-id"] = []string{job.Args.ID}
	m.Header["ce-type"] = []string{eventType}
	m.Data = []byte(job.Args.Data)
	_, err := w.js.PublishMsg(ctx, m, jetstream.WithMsgID(job.Args.ID))
	return err
}

func newRiver(ctx context.Context, s *site, config river.Config) (*riverSystem, error) {
	driver := riverpgxv5.New(s.backend)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	config.Logger = slog.New(slog.DiscardHandler)
	client, err := river.NewClient(driver, &config)
	return &riverSystem{s, client}, err
}

func newPublishArgs(n int) publishArgs {
	return publishArgs{ID: eventID(n), Data: string(payload)}
}

func (r *riverSystem) fill(ctx context.Context, n int) error {
	const chunk = 5000
	for n > 0 {
		size := min(n, chunk)
		first := r.take(size)
		jobs := make([]river.InsertManyParams, size)
		for i := range jobs {
			jobs[i].Args = newPublishArgs(first + i)
		}
		if _, err := r.client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
		n -= size
	}
	return nil
}

func (r *riverSystem) append(ctx context.Context, tx pgx.Tx, n int) error {
	_, err := r.client.InsertTx(ctx, tx, newPublishArgs(n), nil)
	return err
}

// wake does nothing: River's inserts notify the workers.
func (r *riverSystem) wake() {}

func (r *riverSystem) start(ctx context.Context) (func() error, error) {
	if err := r.client.Start(ctx); err != nil {
		return nil, err
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return r.client.StopAndCancel(ctx)
	}, nil
}
