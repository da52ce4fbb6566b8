package store_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// counted closes done when a number of results has been written.
type counted struct {
	provision.Queue
	left atomic.Int64
	done chan struct{}
}

func (q *counted) Finish(ctx context.Context, results []provision.Result) (int, error) {
	stale, err := q.Queue.Finish(ctx, results)
	if err == nil && q.left.Add(int64(stale-len(results))) == 0 {
		close(q.done)
	}
	return stale, err
}

type instant struct{ provision.Provider }

func (instant) Create(context.Context, provision.Storage) error { return nil }
func (instant) Remove(context.Context, provision.Storage) error { return nil }

// BenchmarkProvision measures how fast 16 workers turn waiting storages into ready ones with their replies:
// with the local provider, and with one that costs nothing, so that only the database counts. A rate that is
// never reached shows the cost of the budget.
func BenchmarkProvision(b *testing.B) {
	const storages, batch = 4000, 256
	files := func(f *fixture) provision.Provider {
		p := provider.NewFS(b.TempDir(), f, nil)
		if _, err := provider.Identify(b.Context(), p, f, true); err != nil {
			b.Fatal(err)
		}
		return p
	}
	costsNothing := func(*fixture) provision.Provider { return instant{} }
	for _, c := range []struct {
		name     string
		provider func(*fixture) provision.Provider
		rate     float64
	}{
		{"fs", files, 0},
		{"instant", costsNothing, 0},
		{"budget", costsNothing, 20_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took time.Duration
			for b.Loop() {
				b.StopTimer()
				f := open(b)
				var commands []provision.Command
				for i := range storages {
					if commands = append(commands, command(i, 1, provision.Present)); len(commands) == batch ||
						i == storages-1 {
						f.apply(commands...)
						commands = nil
					}
				}
				q := &counted{Queue: f, done: make(chan struct{})}
				q.left.Store(storages)
				w := &provision.Worker{
					Queue: q, Provider: c.provider(f), Policy: provision.Policy{Rate: c.rate}, Concurrency: 16,
					Timeout: 5 * time.Second, Lease: time.Minute, Log: slog.New(slog.DiscardHandler),
				}
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				b.StartTimer()
				began := time.Now()
				go func() { ended <- w.Run(ctx) }()
				<-q.done
				took += time.Since(began)
				cancel()
				if err := <-ended; err != nil {
					b.Error(err)
				}
				f.pool.Close()
			}
			b.ReportMetric(float64(b.N*storages)/took.Seconds(), "storages/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
