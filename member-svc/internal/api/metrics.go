package api

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// Metrics are member-svc's Prometheus metrics. Their updates are safe for concurrent use.
type Metrics struct {
	// Consumers knows how far consumers are behind; it may be nil.
	Consumers *service.Lag

	registry   *prometheus.Registry
	signups    *prometheus.CounterVec
	duration   prometheus.Histogram
	checks     *prometheus.CounterVec
	replies    *prometheus.CounterVec
	mails      *prometheus.CounterVec
	redrives   prometheus.Counter
	sagas      *prometheus.GaugeVec
	oldest     prometheus.Gauge
	challenges *prometheus.CounterVec
}

// NewMetrics registers the metrics with registry, all of which the admin listener serves. It calls waiting
// for the length of the hash queue at each scrape.
func NewMetrics(registry *prometheus.Registry, waiting func() int64) *Metrics {
	// Counters start at zero: a counter that first appears at 1 shows no increase.
	counters := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		for _, v := range values {
			c.WithLabelValues(v)
		}
		return c
	}
	gauges := func(name, help, label string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{label})
	}
	m := &Metrics{
		registry: registry,
		signups: counters("member_signups_total",
			"Signup requests by outcome: created, replayed, or the problem's code.", "outcome", "created", "replayed",
			"busy", "unavailable", "internal"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "member_signup_seconds",
			Help: "Duration of created signups.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 12)}),
		replies: counters("member_replies_total",
			"Replies of the Storage service by outcome: noted, unknown_saga, malformed, or the "+
				"saga's outcome.", "outcome",
			string(saga.Advanced), string(saga.Recorded), string(saga.Unchanged), "noted", "unknown_saga", "malformed"),
		mails: counters("member_mails_total", "Welcome mails by result: sent, dropped, delayed.", "result",
			"sent", "dropped", "delayed"),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "member_password_checks_total",
			Help: "Requests that check a member's password by use (sign_in, leave, change) and outcome: " +
				"accepted, or the problem's code.",
		}, []string{"use", "outcome"}),
		redrives: prometheus.NewCounter(
			prometheus.CounterOpts{Name: "member_redrives_total", Help: "Sagas moved by timers."}),
		sagas: gauges("member_unsettled_sagas",
			"Sagas that are not ready or withdrawn, by state. Counts stop at 100,000 per open state, and at 200,000 "+
				"that need attention.", "state"),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{Name: "member_oldest_pending_seconds",
			Help: "Age of the oldest signup that is still provisioning; 0 if there is none."}),
	}
	m.challenges = counters("member_challenges_total",
		"Challenges that were issued, and solutions that were accepted or refused.",
		"result", "issued", "accepted", "refused")
	for _, use := range []string{useSignIn, useLeave, useChange} {
		for _, outcome := range []string{"accepted", "invalid_credentials", "rate_limited", "busy"} {
			m.checks.WithLabelValues(use, outcome)
		}
	}
	queue := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "member_hash_waiting",
		Help: "Requests in the queue for a password hash."},
		func() float64 { return float64(waiting()) })
	registry.MustRegister(m.signups, m.checks, m.duration, m.replies, m.mails, m.redrives, m.sagas, m.oldest, queue,
		m.challenges)
	return m
}

// Purposes of a password check.
const (
	useSignIn = "sign_in"
	useLeave  = "leave"
	useChange = "change"
)

func (m *Metrics) passwordChecked(use string, err error) {
	m.checks.WithLabelValues(use, outcomeOf(err, "accepted")).Inc()
}

// outcomeOf returns the problem's code, or success if err is nil.
func outcomeOf(err error, success string) string {
	if err == nil {
		return success
	}
	p := problem(err)
	if p != nil || errors.As(err, &p) {
		return p.Code
	}
	return "internal"
}

func (m *Metrics) signedUp(outcome string, err error, took time.Duration) {
	outcome = outcomeOf(err, outcome)
	m.signups.WithLabelValues(outcome).Inc()
	if outcome == "created" {
		m.duration.Observe(took.Seconds())
	}
}

// Reply counts a reply's outcome.
func (m *Metrics) Reply(outcome string) { m.replies.WithLabelValues(outcome).Inc() }

// Mail counts mails by result.
func (m *Metrics) Mail(result string, n int) { m.mails.WithLabelValues(result).Add(float64(n)) }

func (m *Metrics) challenge(result string) { m.challenges.WithLabelValues(result).Inc() }

// Redriven counts sagas that the timer moved.
func (m *Metrics) Redriven(n int) { m.redrives.Add(float64(n)) }

// Refresh sets the gauges that come from the member tables. Scrapes never query those tables.
func (m *Metrics) Refresh(ctx context.Context, st *store.Store) error {
	counts, err := st.CountUnsettled(ctx)
	if err != nil {
		return err
	}
	oldest, err := st.OldestPending(ctx)
	if err != nil {
		return err
	}
	m.oldest.Set(oldest.Seconds())
	m.sagas.Reset()
	for state, n := range counts {
		m.sagas.WithLabelValues(string(state)).Set(float64(n))
	}
	return nil
}
