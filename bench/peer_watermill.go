package main

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
)

const watermillTopic = "events"

// watermillMaker tunes Watermill where that weakens nothing: the forwarder polls for new rows every 5 ms instead
// of every second.
var watermillMaker = maker{"Watermill", newWatermill}

// watermillSystem keeps events as rows of Watermill's Postgres Pub/Sub, which its forwarder publishes.
type watermillSystem struct {
	*site
	subscriber *wmsql.Subscriber
}

func newWatermill(_ context.Context, s *site) (system, error) {
	subscriber, err := wmsql.NewSubscriber(wmsql.BeginnerFromPgx(s.backend), wmsql.SubscriberConfig{
		PollInterval:   5 * time.Millisecond,
		SchemaAdapter:  wmsql.DefaultPostgreSQLSchema{},
		OffsetsAdapter: wmsql.DefaultPostgreSQLOffsetsAdapter{},
	}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	return &watermillSystem{s, subscriber}, subscriber.SubscribeInitialize(watermillTopic)
}

// publish writes n events in tx, numbered from first on.
func (w *watermillSystem) publish(tx pgx.Tx, first, n int) error {
	p, err := wmsql.NewPublisher(wmsql.TxFromPgx(tx),
		wmsql.PublisherConfig{SchemaAdapter: wmsql.DefaultPostgreSQLSchema{}}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	msgs := make([]*message.Message, n)
	for i := range msgs {
		msgs[i] = message.NewMessage(watermill.NewUUID(), payload)
		msgs[i].Metadata.Set("ce-id", eventID(first+i))
		msgs[i].Metadata.Set("ce-type", eventType)
	}
	return forwarder.NewPublisher(p, forwarder.PublisherConfig{ForwarderTopic: watermillTopic}).Publish(w.subject(),
		msgs...)
}

func (w *watermillSystem) fill(ctx context.Context, n int) error {
	const chunk = 5000
	for n > 0 {
		size := min(n, chunk)
		first := w.take(size)
		if err := pgx.BeginFunc(ctx, w.clients,
			func(tx pgx.Tx) error { return w.publish(tx, first, size) }); err != nil {
			return err
		}
		n -= size
	}
	return nil
}

func (w *watermillSystem) append(_ context.Context, tx pgx.Tx, n int) error {
	return w.publish(tx, n, 1)
}

// wake does nothing: the forwarder polls.
func (w *watermillSystem) wake() {}

func (w *watermillSystem) start(ctx context.Context) (func() error, error) {
	nc, _, err := connect(w.broker)
	if err != nil {
		return nil, err
	}
	publisher, err := wmnats.NewPublisherWithNatsConn(nc, wmnats.PublisherPublishConfig{
		Marshaler: &wmnats.NATSMarshaler{}, SubjectCalculator: wmnats.DefaultSubjectCalculator,
		JetStream: wmnats.JetStreamConfig{TrackMsgId: true},
	}, watermill.NopLogger{})
	if err != nil {
		nc.Close()
		return nil, err
	}
	f, err := forwarder.NewForwarder(w.subscriber, publisher, watermill.NopLogger{},
		forwarder.Config{ForwarderTopic: watermillTopic})
	if err != nil {
		nc.Close()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	select {
	case <-f.Running():
	case err := <-ended:
		return nil, err
	}
	return func() error { return errors.Join(f.Close(), <-ended, publisher.Close()) }, nil
}
