package service

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// A consumer is missing, then delivers, is paused and delivers again, and Lag shows what the broker says.
func TestLagOfAConsumer(t *testing.T) {
	server := testenv.NATS(t)
	nc, err := nats.Connect(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	lag, err := NewLag(nc, registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	lag.Watch("LAGGING", "worker")
	look := func(when string, want func(wire.Consumer) bool) {
		t.Helper()
		if err := lag.pollAll(t.Context()); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got := lag.Consumers(); len(got) != 1 || !want(got[0]) {
			t.Errorf("%s: %+v", when, got)
		}
	}
	metric := func(name string) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	if got := metric("consumer_missing"); got != -1 {
		t.Errorf("before any answer: %v", got)
	}
	look("missing stream", func(c wire.Consumer) bool { return c.State == Missing && metric("consumer_missing") == 1 })
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LAGGING", Subjects: []string{"lagging"}})
	if err != nil {
		t.Fatal(err)
	}
	look("missing consumer", func(c wire.Consumer) bool { return c.State == Missing })
	consumer, err := js.CreateConsumer(t.Context(), "LAGGING", jetstream.ConsumerConfig{
		Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	look("idle", func(c wire.Consumer) bool {
		return c.State == Delivering && c.Messages == 0 && c.Stalled == 0 && metric("consumer_missing") == 0
	})
	for i := range 3 {
		if _, err := js.Publish(t.Context(), "lagging", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	look("messages wait", func(c wire.Consumer) bool {
		return c.Messages == 3 && c.Stalled > 0 &&
			metric("consumer_stalled_seconds") > 0 && metric("consumer_messages") == 3
	})
	batch, err := consumer.Fetch(1)
	if err != nil {
		t.Fatal(err)
	}
	taken := <-batch.Messages()
	look("one is in hand", func(c wire.Consumer) bool { return c.Messages == 3 })
	until := time.Now().Add(time.Hour)
	if _, err := js.PauseConsumer(t.Context(), "LAGGING", "worker", until); err != nil {
		t.Fatal(err)
	}
	look("paused", func(c wire.Consumer) bool {
		return c.State == Paused && c.PausedUntil.Sub(until).Abs() < time.Minute && metric("consumer_paused") == 1
	})
	if _, err := js.ResumeConsumer(t.Context(), "LAGGING", "worker"); err != nil {
		t.Fatal(err)
	}
	before := lag.Consumers()[0].Stalled
	if err := taken.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	look("one is done", func(c wire.Consumer) bool {
		return c.State == Delivering && c.PausedUntil == nil && c.Messages == 2 && c.Stalled < before
	})
	away := nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED)
	server.Kill()
	<-away
	err = lag.pollAll(t.Context())
	text := fmt.Sprint(err)
	if !strings.HasPrefix(text, "NATS is not connected: check") || strings.Contains(text, "\n") {
		t.Errorf("one line should say what is wrong: %v", err)
	}
	if len(lag.Consumers()) != 1 {
		t.Errorf("without a broker the last answer is shown for a while: %v, %v", err, lag.Consumers())
	}
	lag.consumers[0].asked = time.Now().Add(-lagMaxAge)
	if got := lag.Consumers(); len(got) != 0 || metric("consumer_messages") != -1 {
		t.Errorf("an old answer is shown: %v", got)
	}
}
