package api

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

// Metrics counts what happens. On each scrape it reads from the database what is waiting. All replicas report
// the same waiting work: take the maximum.
type Metrics struct {
	attempts *prometheus.HistogramVec
	poison   prometheus.Counter
}

// NewMetrics returns metrics that read through st, for at most a second, and adds them to the registry.
func NewMetrics(registry *prometheus.Registry, st *store.Store) *Metrics {
	m := &Metrics{
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "storage_attempt_seconds",
			Help:    "Provider calls by desired state and result (ok or the class of the error).",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5},
		}, []string{"desired", "result"}),
		poison: prometheus.NewCounter(
			prometheus.CounterOpts{Name: "storage_poison_total", Help: "Messages put aside as dead letters."}),
	}
	registry.MustRegister(m.attempts, m.poison, &waiting{store: st})
	return m
}

// Attempted counts a provider call.
func (m *Metrics) Attempted(desired provision.Desired, result string, took time.Duration) {
	m.attempts.WithLabelValues(string(desired), result).Observe(took.Seconds())
}

// Poisoned counts dead letters.
func (m *Metrics) Poisoned(n int) { m.poison.Add(float64(n)) }

var (
	pendingDesc = prometheus.NewDesc("storage_pending",
		"Storages that are not yet in their desired state; counted up to 100,000.", nil, nil)
	oldestDesc = prometheus.NewDesc("storage_pending_idle_seconds",
		"Longest time since the last command or attempt of a pending storage, among the 1,000 that are due first.",
		nil, nil)
	deadLettersDesc = prometheus.NewDesc("storage_dead_letters", "Different messages put aside; counted up to 100,000.",
		nil, nil)
	breakerDesc = prometheus.NewDesc("storage_provider_gate", "1 for the state that the circuit breaker is in.",
		[]string{"state"}, nil)
)

// waiting collects metrics from the database.
type waiting struct {
	store *store.Store
}

// Describe implements prometheus.Collector.
func (c *waiting) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pendingDesc, oldestDesc, deadLettersDesc, breakerDesc} {
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
	breaker, err := c.store.Breaker(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(breakerDesc, err)
		return
	}
	states := map[provision.BreakerState]float64{
		provision.BreakerClosed: 0, provision.BreakerOpen: 0, provision.BreakerHalfOpen: 0,
	}
	states[breaker.State] = 1
	for state, v := range states {
		gauge(breakerDesc, v, string(state))
	}
	// Last, because it takes longest.
	stats, err := c.store.Stats(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(pendingDesc, err)
		return
	}
	gauge(pendingDesc, float64(stats.Pending))
	gauge(oldestDesc, stats.Oldest)
	gauge(deadLettersDesc, float64(stats.DeadLetters))
}
