package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// Metrics are member-svc's Prometheus metrics. Their updates are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	signups  *prometheus.CounterVec
	duration prometheus.Histogram
	replies  *prometheus.CounterVec
	mails    *prometheus.CounterVec
	redrives prometheus.Counter
	sagas    *prometheus.GaugeVec
}

// NewMetrics registers the metrics with registry, all of which is then served;
// waiting is asked for the length of the hash queue at each scrape. It fails only
// if two metrics clash.
func NewMetrics(registry *prometheus.Registry, waiting func() int64) (*Metrics, error) {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	gauges := func(name, help, label string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{label})
	}
	m := &Metrics{
		registry: registry,
		signups:  counters("member_signups_total", "Signup requests by outcome: created, replayed, or the problem's code.", "outcome"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "member_signup_seconds", Help: "Duration of created signups.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 12)}),
		replies:  counters("member_replies_total", "Replies of the Storage service by what became of them.", "outcome"),
		mails:    counters("member_mails_total", "Welcome mails by result: sent, dropped, delayed.", "result"),
		redrives: prometheus.NewCounter(prometheus.CounterOpts{Name: "member_redrives_total", Help: "Sagas moved by timers."}),
		sagas:    gauges("member_unsettled_sagas", "Sagas that are not at an end, by state; counted up to 100,000.", "state"),
	}
	queue := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "member_hash_waiting", Help: "Signups that wait for their turn to hash."},
		func() float64 { return float64(waiting()) })
	var errs []error
	for _, c := range []prometheus.Collector{m.signups, m.duration, m.replies, m.mails, m.redrives, m.sagas, queue,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *Metrics) signedUp(outcome string, err error, took time.Duration) {
	if err != nil {
		outcome = "internal"
		p := problem(err)
		if p != nil || errors.As(err, &p) {
			outcome = p.Code
		}
	}
	m.signups.WithLabelValues(outcome).Inc()
	if outcome == "created" {
		m.duration.Observe(took.Seconds())
	}
}

// Reply counts a reply's outcome.
func (m *Metrics) Reply(outcome string) { m.replies.WithLabelValues(outcome).Inc() }

// Mail counts mails by result.
func (m *Metrics) Mail(result string, n int) { m.mails.WithLabelValues(result).Add(float64(n)) }

// Redriven counts sagas that a timer moved.
func (m *Metrics) Redriven(n int) { m.redrives.Add(float64(n)) }

// Refresh reads the gauges that live in the member tables; scrapes never query those.
func (m *Metrics) Refresh(ctx context.Context, st *store.Store) error {
	counts, err := st.CountUnsettled(ctx)
	if err != nil {
		return err
	}
	m.sagas.Reset()
	for state, n := range counts {
		m.sagas.WithLabelValues(string(state)).Set(float64(n))
	}
	return nil
}
