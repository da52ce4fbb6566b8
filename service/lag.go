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
	lagSoon     = time.Second // after a look that found a consumer missing: most are made soon after the start
	lagBelieved = time.Minute // how long an answer of the broker is shown
)

// What a durable consumer does.
const (
	Delivering = "delivering" // whatever there is
	Paused     = "paused"     // somebody told the broker to hold back its messages
	Missing    = "missing"    // it, or its stream, does not exist
)

// lagging is how far a durable consumer is behind, and what tells how long nothing has moved.
type lagging struct {
	wire.Consumer
	asked time.Time // zero: never answered
	moved time.Time // when nothing waited, or one was acknowledged
	floor uint64    // the stream's sequence up to which all was acknowledged
}

// Lag asks the broker how far consumers are behind. It is a collector of metrics, and
// safe for concurrent use.
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
	if err := reg.Register(l); err != nil {
		return nil, fmt.Errorf("lag of consumers: %w", err)
	}
	return l, nil
}

// Watch adds a consumer.
func (l *Lag) Watch(stream, consumer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.consumers = append(l.consumers, &lagging{Consumer: wire.Consumer{Stream: stream, Consumer: consumer}})
}

// Run asks until ctx ends. It returns nil.
func (l *Lag) Run(ctx context.Context) error {
	var due time.Time
	Loop(ctx, "lag of consumers", lagSoon, nil, l.log, func(ctx context.Context) (bool, error) {
		if time.Now().Before(due) {
			return false, ErrIdle
		}
		err := l.askAll(ctx)
		if err == nil && !slices.ContainsFunc(l.Consumers(), func(c wire.Consumer) bool { return c.State == Missing }) {
			due = time.Now().Add(lagInterval)
		}
		return false, err
	})
	return nil
}

func (l *Lag) askAll(ctx context.Context) error {
	if !l.js.Conn().IsConnected() {
		return outbox.Explain(nats.ErrDisconnected) // once, not for each consumer
	}
	l.mu.Lock()
	consumers := l.consumers
	l.mu.Unlock()
	var errs []error
	for _, c := range consumers {
		errs = append(errs, l.ask(ctx, c))
	}
	return errors.Join(errs...)
}

// ask notes what the broker says of a consumer. Without an answer the last one ages.
func (l *Lag) ask(ctx context.Context, c *lagging) error {
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
	c.heard(info, time.Now())
	return nil
}

// heard notes an answer; nil: there is no such consumer.
func (c *lagging) heard(info *jetstream.ConsumerInfo, now time.Time) {
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

// Consumers returns what is known, in the order of Watch.
func (l *Lag) Consumers() []wire.Consumer {
	known := []wire.Consumer{}
	if l == nil {
		return known
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.consumers {
		if !c.asked.IsZero() && time.Since(c.asked) < lagBelieved {
			known = append(known, c.Consumer)
		}
	}
	return known
}

var (
	lagLabels   = []string{"stream", "consumer"}
	lagMessages = prometheus.NewDesc("consumer_messages",
		"Messages that wait to be delivered or acknowledged.", lagLabels, nil)
	lagStalled = prometheus.NewDesc("consumer_stalled_seconds",
		"Time for which messages have waited without one being acknowledged.", lagLabels, nil)
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
