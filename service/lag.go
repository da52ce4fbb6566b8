package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/outbox"
)

const (
	lagInterval = 15 * time.Second
	lagRetry    = time.Second // poll interval while a consumer is missing: most appear soon
	lagMaxAge   = time.Minute // how long an answer of the broker is reported
)

// States of a durable consumer.
const (
	Delivering = "delivering" // it delivers its messages
	Paused     = "paused"     // the broker was told to hold back its messages
	Missing    = "missing"    // the consumer or its stream does not exist
)

// lagging is how far a durable consumer is behind, and for how long it has made no progress.
type lagging struct {
	wire.Consumer
	asked time.Time // time of the broker's last answer; zero: none yet
	moved time.Time // when last nothing was waiting, or a message was acknowledged
	floor uint64    // stream sequence up to which everything is acknowledged
}

// Lag polls the broker for how far consumers are behind. It is a prometheus.Collector. Safe for concurrent use.
type Lag struct {
	js  jetstream.JetStream
	log *slog.Logger

	mu        sync.Mutex
	consumers []*lagging
}

// NewLag returns a Lag without consumers, and registers it.
func NewLag(nc *nats.Conn, reg prometheus.Registerer, log *slog.Logger) (*Lag, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("lag of consumers: %w", err)
	}
	l := &Lag{js: js, log: log}
	reg.MustRegister(l)
	return l, nil
}

// Watch adds a consumer to poll.
func (l *Lag) Watch(stream, consumer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.consumers = append(l.consumers, &lagging{Consumer: wire.Consumer{Stream: stream, Consumer: consumer}})
}

// Run polls until ctx ends. It returns nil.
func (l *Lag) Run(ctx context.Context) error {
	var due time.Time
	Loop(ctx, "lag of consumers", lagRetry, nil, l.log, func(ctx context.Context) (bool, error) {
		if time.Now().Before(due) {
			return false, ErrIdle
		}
		err := l.pollAll(ctx)
		if err == nil && !slices.ContainsFunc(l.Consumers(), func(c wire.Consumer) bool { return c.State == Missing }) {
			due = time.Now().Add(lagInterval)
		}
		return false, err
	})
	return nil
}

func (l *Lag) pollAll(ctx context.Context) error {
	if !l.js.Conn().IsConnected() {
		return outbox.Explain(nats.ErrDisconnected) // one error, not one per consumer
	}
	l.mu.Lock()
	consumers := l.consumers
	l.mu.Unlock()
	var errs []error
	for _, c := range consumers {
		errs = append(errs, l.poll(ctx, c))
	}
	return errors.Join(errs...)
}

// poll stores what the broker says about a consumer. If the broker does not answer, the previous answer ages.
func (l *Lag) poll(ctx context.Context, c *lagging) error {
	ctx, cancel := context.WithTimeout(ctx, consumerRequest)
	defer cancel()
	var info *jetstream.ConsumerInfo
	found, err := l.js.Consumer(ctx, c.Stream, c.Consumer.Consumer)
	missing := errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
	switch {
	case missing:
	case err != nil:
		return fmt.Errorf("ask for consumer %s of %s: %w", c.Consumer.Consumer, c.Stream, outbox.Explain(err))
	default:
		info = found.CachedInfo()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.record(info, time.Now())
	return nil
}

// record stores an answer. A nil info means that there is no such consumer.
func (c *lagging) record(info *jetstream.ConsumerInfo, now time.Time) {
	first := c.asked.IsZero()
	c.asked, c.State, c.Messages, c.PausedUntil = now, Missing, 0, nil
	if info != nil {
		c.State = Delivering
		c.Messages = int(info.NumPending) + info.NumAckPending // bounded by the stream's size
		if info.Paused {
			until := now.Add(info.PauseRemaining)
			c.State, c.PausedUntil = Paused, &until
		}
		if info.AckFloor.Stream != c.floor {
			c.moved, c.floor = now, info.AckFloor.Stream
		}
	}
	if first || c.Messages == 0 {
		c.moved = now
	}
	c.Stalled = now.Sub(c.moved).Seconds()
}

// Consumers returns the answers that are not too old to report, in the order of Watch. A nil Lag has none.
func (l *Lag) Consumers() []wire.Consumer {
	known := []wire.Consumer{}
	if l == nil {
		return known
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.consumers {
		if !c.asked.IsZero() && time.Since(c.asked) < lagMaxAge {
			known = append(known, c.Consumer)
		}
	}
	return known
}

var (
	lagLabels   = []string{"stream", "consumer"}
	lagMessages = prometheus.NewDesc("consumer_messages",
		"Messages that are waiting to be delivered or acknowledged.", lagLabels, nil)
	lagStalled = prometheus.NewDesc("consumer_stalled_seconds",
		"How long messages have waited without one being acknowledged.", lagLabels, nil)
	lagPaused = prometheus.NewDesc("consumer_paused",
		"1 while the consumer is paused, else 0.", lagLabels, nil)
	lagIsMissing = prometheus.NewDesc("consumer_missing",
		"1 while the broker has no such consumer, else 0.", lagLabels, nil)
)

// Describe implements prometheus.Collector.
func (l *Lag) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{lagMessages, lagStalled, lagPaused, lagIsMissing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (l *Lag) Collect(ch chan<- prometheus.Metric) {
	for _, c := range l.Consumers() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, c.Stream, c.Consumer)
		}
		is := map[string]float64{c.State: 1}
		gauge(lagMessages, float64(c.Messages))
		gauge(lagStalled, c.Stalled)
		gauge(lagPaused, is[Paused])
		gauge(lagIsMissing, is[Missing])
	}
}
