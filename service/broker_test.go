package service_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/service"
)

// KeepBroker updates the streams and consumers of older versions, and recreates them when the broker has lost
// them. Services that may not create a consumer wait for it.
func TestKeepBroker(t *testing.T) {
	b := newBroker(t)
	const stream, durable, own = "STORAGE_ESSENTIAL", "test", "OWN"
	subjects := contract.Subjects(contract.Storage, contract.Essential)
	old := jetstream.StreamConfig{Name: stream, Subjects: subjects[:1], AllowDirect: true, DenyDelete: true}
	if _, err := b.js.CreateStream(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	everything := jetstream.ConsumerConfig{Durable: durable, AckPolicy: jetstream.AckExplicitPolicy}
	if _, err := b.js.CreateConsumer(t.Context(), stream, everything); err != nil {
		t.Fatal(err)
	}
	later := service.ConsumerConfig{Stream: own, Durable: durable, Batch: 1, External: true, Log: discard()}
	config := later
	config.Stream, config.Subjects, config.Batch = stream, subjects[1:2], 7
	common := service.Common{NATSURL: service.NewSecret(b.URL), NATSReplicas: 1, NATSMaxBytes: 1 << 20}
	p := service.Program{Name: "test", Producer: contract.Storage, Consumers: []service.ConsumerConfig{later, config}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 3)
	go func() { done <- p.KeepBroker(ctx, common, io.Discard) }()
	var in inbox
	go func() { done <- service.Consume(ctx, b.nc.Conn, later, in.handle) }()
	go func() { done <- service.Consume(ctx, b.nc.Conn, config, in.handle) }()
	upToDate := func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		have := s.CachedInfo().Config
		if have.MaxBytes != 1<<20 || len(have.Subjects) != len(subjects) || have.Discard != jetstream.DiscardNew {
			return errors.New("the stream is not up to date")
		}
		c, err := s.Consumer(ctx, durable)
		if err != nil {
			return err
		}
		now := c.CachedInfo().Config
		if !slices.Equal(now.FilterSubjects, subjects[1:2]) || now.MaxAckPending != 28 {
			return errors.New("the consumer is not up to date")
		}
		return nil
	}
	b.eventually("the configured streams", upToDate)
	for _, name := range []string{stream, "STORAGE_NONESSENTIAL"} {
		if err := b.js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually("the lost streams", upToDate)
	if _, err := b.js.Publish(t.Context(), subjects[1], []byte("a")); err != nil {
		t.Fatal(err)
	}
	// Another service's stream comes last; until then nobody creates its consumer.
	others := jetstream.StreamConfig{Name: own, Subjects: []string{"own"}}
	if _, err := b.js.CreateStream(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.Publish(t.Context(), "own", []byte("b")); err != nil {
		t.Fatal(err)
	}
	b.eventually("both messages", func(context.Context) error {
		if !in.has(2)() {
			return errors.New("not yet")
		}
		return nil
	})
	cancel()
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A full stream refuses new messages: its own relay waits, and no other stream is affected.
func TestAFullStreamHoldsBackItsOwnRelayOnly(t *testing.T) {
	b := newBroker(t)
	common := service.Common{NATSURL: service.NewSecret(b.URL), NATSReplicas: 1, NATSMaxBytes: 1 << 20}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, producer := range contract.Services() {
		p := service.Program{Name: "test", Producer: producer}
		kept, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- p.KeepBroker(kept, common, io.Discard) }()
		for _, lane := range contract.Lanes() {
			if len(contract.Subjects(producer, lane)) > 0 {
				b.eventually("the stream", func(ctx context.Context) error {
					_, err := b.js.Stream(ctx, contract.Stream(producer, lane))
					return err
				})
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	big := []byte(strings.Repeat("x", 100<<10))
	full := contract.Subjects(contract.Member, contract.Essential)[0]
	var refused error
	for range 20 {
		if _, refused = b.js.Publish(ctx, full, big); refused != nil {
			break
		}
	}
	var api *jetstream.APIError
	if !errors.As(refused, &api) {
		t.Errorf("two megabytes went into a stream of one: %v", refused)
	}
	others := contract.Subjects(contract.Storage, contract.Essential)
	for _, subject := range append(others, contract.Subjects(contract.Member, contract.NonEssential)...) {
		if _, err := b.js.Publish(ctx, subject, []byte("x")); err != nil {
			t.Errorf("%s: %v", subject, err)
		}
	}
}
