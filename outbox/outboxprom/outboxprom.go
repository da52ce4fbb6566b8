// Package outboxprom turns what a relay reports through [outbox.Hooks], and what [outbox.ReadStatus] reads of
// its lane, into Prometheus metrics.
//
// Every metric has the label lane. Relays whose lanes have the same name in one process need a further label;
// [prometheus.WrapRegistererWith] adds it.
//
// Counted in this process, from zero at its start:
//
//	outbox_published_events_total   events published, replays included
//	outbox_published_batches_total  batches in which they were published
//	outbox_publish_duration_seconds histogram of the time from sending a batch until the broker acknowledged it
//	outbox_recovered_events_total   events found in the stream whose acknowledgement or checkpoint was lost; those
//	                                whose acknowledgement was lost are not counted as published
//	outbox_refused_batches_total    batches that the broker refused: the stream did not end where expected
//	outbox_broker_losses_total      times that the stream was found replaced or shortened
//	outbox_foreign_messages_total   checks of the stream that found foreign messages
//	outbox_leading                  1 while the relay of this process leads, else 0
//	outbox_waiting_seconds          for how long the relay of this process has waited, by label reason: database,
//	                                lane, nats or stream; 0 if it does not wait for that
//
// Read from the database when scraped. Every replica reports the same values, so take the maximum, not the sum:
//
//	outbox_appended_events_total    events ever appended, those of rolled-back transactions included
//	outbox_lag_events               events not yet published, at most
//	outbox_lag_seconds              age of the oldest event not yet published, 0 if there is none
//	outbox_open_gaps                ranges of ids that may belong to open transactions
//	outbox_dead_events              dead events: they cannot be published for a defect of their own
//	outbox_status_up                1 if the database could be read, else 0 and the other metrics of this group are
//	                                missing
//
// Alert on outbox_status_up == 0 or a growing outbox_lag_seconds for minutes (outbox_waiting_seconds names the
// reason), on any outbox_dead_events, and on any increase of outbox_foreign_messages_total.
package outboxprom

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/outbox"
)

// readTimeout limits how long a scrape waits for the database.
const readTimeout = time.Second

// Metrics are the metrics of one lane. Their methods are safe for concurrent use.
type Metrics struct {
	published, batches, recovered, refused, lost, foreign prometheus.Counter
	took                                                  prometheus.Histogram
	leading                                               prometheus.Gauge
	waiting                                               *waiting
}

// New registers a lane's metrics with reg. A scrape reads the lane's status through q, in at most a second. It
// fails if a name is already registered, for example by an earlier call for the same lane; then nothing stays
// registered.
func New(lane string, q outbox.Querier, reg prometheus.Registerer) (*Metrics, error) {
	label := prometheus.Labels{"lane": lane}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: label})
	}
	m := &Metrics{
		published: counter("outbox_published_events_total", "Events published by this process, replays included."),
		batches:   counter("outbox_published_batches_total", "Batches published by this process."),
		recovered: counter("outbox_recovered_events_total",
			"Events found in the stream whose acknowledgement was lost."),
		refused: counter("outbox_refused_batches_total",
			"Batches refused because the stream did not end where expected."),
		lost: counter("outbox_broker_losses_total", "Times that the stream was found replaced or shortened."),
		foreign: counter("outbox_foreign_messages_total",
			"Times that the relay found messages of another publisher in the stream."),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_publish_duration_seconds",
			Help: "Time from sending a batch until the broker acknowledged it.", ConstLabels: label,
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{Name: "outbox_leading",
			Help: "1 while the relay of this process leads, else 0.", ConstLabels: label}),
		waiting: newWaiting(label),
	}
	all := []prometheus.Collector{
		m.published, m.batches, m.recovered, m.refused, m.lost, m.foreign, m.took, m.leading, m.waiting,
		newStatus(lane, q),
	}
	for i, c := range all {
		if err := reg.Register(c); err != nil {
			for _, c := range all[:i] {
				reg.Unregister(c)
			}
			return nil, errors.Join(errors.New("outboxprom: register the metrics of lane "+lane), err)
		}
	}
	return m, nil
}

// Hooks returns next, which may be empty, with the counting in front of it. Give the result to the relay of the
// lane that m was made for.
func (m *Metrics) Hooks(next outbox.Hooks) outbox.Hooks {
	h := next
	h.Published = func(batch []*nats.Msg, began time.Time) {
		if len(batch) > 0 { // otherwise all of its events died
			m.published.Add(float64(len(batch)))
			m.batches.Inc()
			m.took.Observe(time.Since(began).Seconds())
		}
		if next.Published != nil {
			next.Published(batch, began)
		}
	}
	h.Refused = func() {
		m.refused.Inc()
		if next.Refused != nil {
			next.Refused()
		}
	}
	h.Led = func(leading bool) {
		m.leading.Set(number(leading))
		if next.Led != nil {
			next.Led(leading)
		}
	}
	h.Waiting = func(why error, since time.Time) {
		m.waiting.set(why, since)
		if next.Waiting != nil {
			next.Waiting(why, since)
		}
	}
	h.Recovered = func(events int) {
		m.recovered.Add(float64(events))
		if next.Recovered != nil {
			next.Recovered(events)
		}
	}
	h.BrokerLost = func() {
		m.lost.Inc()
		if next.BrokerLost != nil {
			next.BrokerLost()
		}
	}
	h.Foreign = func(seq uint64) {
		m.foreign.Inc()
		if next.Foreign != nil {
			next.Foreign(seq)
		}
	}
	return h
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// waiting collects why the relay waits, and for how long.
type waiting struct {
	desc  *prometheus.Desc
	mu    sync.Mutex
	why   error // nil: it does not wait
	since time.Time
}

func newWaiting(label prometheus.Labels) *waiting {
	return &waiting{desc: prometheus.NewDesc("outbox_waiting_seconds",
		"How long the relay of this process has been waiting for reason; 0 while it does not wait.",
		[]string{"reason"}, label)}
}

func (w *waiting) set(why error, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why, w.since = why, since
}

// Describe implements [prometheus.Collector].
func (w *waiting) Describe(ch chan<- *prometheus.Desc) { ch <- w.desc }

// Collect implements [prometheus.Collector].
func (w *waiting) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, reason := range outbox.Reasons() {
		seconds := 0.0
		if errors.Is(w.why, reason) {
			seconds = time.Since(w.since).Seconds()
		}
		ch <- prometheus.MustNewConstMetric(w.desc, prometheus.GaugeValue, seconds, reason.Error())
	}
}

// status collects what the database holds about a lane.
type status struct {
	lane                                    string
	querier                                 outbox.Querier
	appended, lag, lagAge, gaps, dead, read *prometheus.Desc
}

func newStatus(lane string, q outbox.Querier) *status {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, nil, prometheus.Labels{"lane": lane})
	}
	return &status{
		lane: lane, querier: q,
		appended: desc("outbox_appended_events_total",
			"Events ever appended, including those of transactions that were rolled back."),
		lag:    desc("outbox_lag_events", "Upper bound of the number of events not yet published."),
		lagAge: desc("outbox_lag_seconds", "Age of the oldest event not yet published; 0 if there is none."),
		gaps:   desc("outbox_open_gaps", "Ranges of ids that may belong to open transactions."),
		dead:   desc("outbox_dead_events", "Events that NATS refuses for a defect of their own."),
		read:   desc("outbox_status_up", "1 if the lane's status could be read from the database, else 0."),
	}
}

// Describe implements [prometheus.Collector].
func (c *status) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.appended, c.lag, c.lagAge, c.gaps, c.dead, c.read} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector]. It leaves out what it cannot read: an error here would make the
// whole scrape fail, including the counters.
func (c *status) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	s, err := outbox.ReadStatus(ctx, c.querier, c.lane)
	gauge(c.read, number(err == nil))
	if err != nil {
		return
	}
	age := 0.0
	if !s.OldestPending.IsZero() {
		age = max(0, time.Since(s.OldestPending).Seconds()) // the clocks may differ
	}
	ch <- prometheus.MustNewConstMetric(c.appended, prometheus.CounterValue, float64(s.Appended))
	gauge(c.lag, float64(s.Lag))
	gauge(c.lagAge, age)
	gauge(c.gaps, float64(s.Gaps))
	gauge(c.dead, float64(s.Dead))
}
