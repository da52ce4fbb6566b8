package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
)

const (
	// natsWait is how long migrate waits for NATS. If that is not enough, serve or broker does the work
	// later.
	natsWait = 3 * time.Second
	// brokerPause is the interval at which the broker subcommand applies the configuration. A broker that has
	// lost its data gets its streams back within about this time.
	brokerPause = 5 * time.Second
)

// KeepBroker is the broker subcommand. It keeps the program's streams and consumers as they are configured
// until ctx ends. With NATS_SETUP=migrate only it and migrate may create them, so it recreates them after a
// broker has lost its data.
func (p Program) KeepBroker(ctx context.Context, c Common, stdout io.Writer) error {
	return p.setUp(ctx, c, c.Logger(stdout), brokerPause)
}

// setUp applies the configuration of streams and consumers at the interval again, or only once if again is 0.
func (p Program) setUp(ctx context.Context, c Common, log *slog.Logger, again time.Duration) error {
	nc, err := ConnectNATS(c, p.Name+"-migrate", log)
	if err != nil {
		return err
	}
	defer closeAll([]func(context.Context) error{nc.Close})
	js, err := jetstream.New(nc.Conn)
	if err != nil {
		return fmt.Errorf("set up streams: %w", err)
	}
	pause, whole := again, ctx
	if again == 0 {
		limited, cancel := context.WithTimeout(ctx, natsWait)
		defer cancel()
		ctx, pause = limited, natsWait
	}
	ctx, done := context.WithCancel(ctx)
	defer done()
	known := false
	Loop(ctx, "set up streams", pause, nil, log, func(ctx context.Context) (bool, error) {
		err := p.configure(ctx, js, c)
		// A single run does not wait for another service's stream: that service creates it when it migrates,
		// and the consumer is created later.
		if err != nil && (again != 0 || !errors.Is(err, jetstream.ErrStreamNotFound)) {
			known = false
			return false, err
		}
		if !known {
			log.Info("streams and consumers are up to date")
		}
		if !known && err != nil {
			log.Warn("a consumer waits for its stream, which another service creates", "error", err)
		}
		if known = true; again == 0 {
			done()
		}
		return false, nil
	})
	if again == 0 && !known {
		log.Warn("streams and consumers are not up to date: run broker, or migrate again once NATS answers")
		return whole.Err()
	}
	return nil
}

// configure creates or updates the streams, then the consumers. If a consumer's stream does not exist yet, the
// other consumers are still configured.
func (p Program) configure(ctx context.Context, js jetstream.JetStream, c Common) error {
	for _, lane := range p.lanes() {
		if _, err := js.CreateOrUpdateStream(ctx, p.stream(lane, c)); err != nil {
			return fmt.Errorf("stream %s: %w", contract.Stream(p.Producer, lane), outbox.Explain(err))
		}
	}
	var errs []error
	for _, consumer := range p.Consumers {
		if _, err := js.CreateOrUpdateConsumer(ctx, consumer.Stream, consumer.durable()); err != nil {
			errs = append(errs, fmt.Errorf("consumer %s of %s: %w", consumer.Durable, consumer.Stream, err))
		}
	}
	return errors.Join(errs...)
}

func (p Program) stream(lane contract.Lane, c Common) jetstream.StreamConfig {
	config := outbox.StreamConfig(contract.Stream(p.Producer, lane), contract.Subjects(p.Producer, lane),
		c.NATSReplicas)
	config.MaxBytes = c.NATSMaxBytes
	return config
}

// durable returns the consumer's configuration on the server.
func (c ConsumerConfig) durable() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:        c.Durable,
		FilterSubjects: c.Subjects,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        ackWait,
		MaxDeliver:     -1,
		MaxAckPending:  4 * c.Batch,
	}
}
