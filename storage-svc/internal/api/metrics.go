package api

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

// Metrics counts what happens and, when scraped, reads from the database what
// is waiting. All replicas report the same waiting work: take the maximum.
type Metrics struct {
	attempts *prometheus.HistogramVec
	poison   prometheus.Counter
	handler  http.Handler
}

// NewMetrics returns metrics that read through st and q, in at most a second.
func NewMetrics(st *store.Store, q outbox.Querier) *Metrics {
	m := &Metrics{
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "storage_attempt_seconds", Help: "Provider calls by desired state and result (ok or the class of the error).",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5},
		}, []string{"desired", "result"}),
		poison: prometheus.NewCounter(prometheus.CounterOpts{Name: "storage_poison_total", Help: "Messages put aside as dead letters."}),
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.attempts, m.poison, &waiting{store: st, querier: q},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// What cannot be read is left out; the rest is worth having during an outage.
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return m
}

// ServeHTTP answers a scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Attempted counts a provider call.
func (m *Metrics) Attempted(desired provision.Desired, result string, took time.Duration) {
	m.attempts.WithLabelValues(string(desired), result).Observe(took.Seconds())
}

// Poisoned counts dead letters.
func (m *Metrics) Poisoned(n int) { m.poison.Add(float64(n)) }

var (
	pendingDesc     = prometheus.NewDesc("storage_pending", "Storages that are not yet as desired.", nil, nil)
	oldestDesc      = prometheus.NewDesc("storage_pending_idle_seconds", "Longest time since a pending storage was commanded or tried.", nil, nil)
	deadLettersDesc = prometheus.NewDesc("storage_dead_letters", "Different messages put aside.", nil, nil)
	lagDesc         = prometheus.NewDesc("outbox_lag_events", "Events not yet published, at most.", []string{"lane"}, nil)
	lagSecondsDesc  = prometheus.NewDesc("outbox_lag_seconds", "Age of the oldest event not yet published.", []string{"lane"}, nil)
	outboxDeadDesc  = prometheus.NewDesc("outbox_dead_events", "Events that cannot be published.", []string{"lane"}, nil)
)

// waiting collects what the database knows.
type waiting struct {
	store   *store.Store
	querier outbox.Querier
}

// Describe implements prometheus.Collector.
func (c *waiting) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pendingDesc, oldestDesc, deadLettersDesc, lagDesc, lagSecondsDesc, outboxDeadDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *waiting) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	stats, err := c.store.Stats(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(pendingDesc, err)
		return
	}
	gauge(pendingDesc, float64(stats.Pending))
	gauge(oldestDesc, stats.Oldest)
	gauge(deadLettersDesc, float64(stats.DeadLetters))
	for _, lane := range contract.Lanes() {
		s, err := outbox.ReadStatus(ctx, c.querier, string(lane))
		if err != nil {
			ch <- prometheus.NewInvalidMetric(lagDesc, err)
			return
		}
		age := 0.0
		if !s.OldestPending.IsZero() {
			age = max(0, time.Since(s.OldestPending).Seconds())
		}
		gauge(lagDesc, float64(s.Lag), string(lane))
		gauge(lagSecondsDesc, age, string(lane))
		gauge(outboxDeadDesc, float64(s.Dead), string(lane))
	}
}
