package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const rawBatch = 1000

// rawSystem is the upper limit for any relay: it publishes the relay's messages without reading them from a database.
type rawSystem struct {
	*site
	backlog int
}

var rawMaker = maker{"raw", func(_ context.Context, s *site) (system, error) { return &rawSystem{site: s}, nil }}

func (r *rawSystem) fill(_ context.Context, n int) error {
	r.backlog = n
	return nil
}

func (r *rawSystem) append(context.Context, pgx.Tx, int) error { return errors.ErrUnsupported }

func (r *rawSystem) wake() {}

func (r *rawSystem) start(ctx context.Context) (func() error, error) {
	done := make(chan error, 1)
	go func() { done <- rawDrain(ctx, r.site, r.backlog) }()
	return func() error { return <-done }, nil
}

// send makes one round trip to Postgres, then publishes one message: the limit of row L.
func (r *rawSystem) send(ctx context.Context, n int) error {
	var id int64
	err := r.clients.QueryRow(ctx, "-- name: roundTrip\nSELECT coalesce(max(id), 0) FROM outbox_event_"+lane).Scan(&id)
	if err != nil {
		return err
	}
	return r.nc.PublishMsg(rawMessage(r.site, n))
}

// rawMessage has the subject, the headers and the size of an outbox message.
func rawMessage(s *site, n int) *nats.Msg {
	m := nats.NewMsg(s.subject())
	for k, v := range map[string]string{
		"ce-specversion": "1.0",
		"ce-id":          eventID(n),
		"ce-type":        eventType,
		"ce-source":      source,
		"ce-subject":     strconv.Itoa(n % 1000),
		"ce-time":        time.Now().UTC().Format(time.RFC3339Nano),
		"ce-outboxid":    strconv.Itoa(n),
		"content-type":   "application/json",
	} {
		m.Header[k] = []string{v}
	}
	m.Data = payload
	return m
}

// rawDrain publishes n messages in atomic batches, each expecting the stream to end where the batch before it
// ended. It reuses the messages of a batch for the next, so that it measures almost only the broker's work.
func rawDrain(ctx context.Context, s *site, n int) error {
	msgs := make([]*nats.Msg, 0, rawBatch)
	for range min(n, rawBatch) {
		msgs = append(msgs, rawMessage(s, 0))
	}
	var last uint64
	for n > 0 {
		size := min(n, rawBatch)
		first := s.take(size)
		for i, m := range msgs[:size] {
			m.Header["ce-id"] = []string{eventID(first + i)}
			m.Header["ce-outboxid"] = []string{strconv.Itoa(first + i)}
		}
		msgs[0].Header.Set(jetstream.ExpectedStreamHeader, s.name)
		msgs[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(last, 10))
		ack, err := jetstreamext.PublishMsgBatch(ctx, s.js, msgs[:size], jetstreamext.BatchFlowControl{AckFirst: false})
		if err != nil {
			return fmt.Errorf("publish %d messages after %d: %w", size, last, err)
		}
		last = ack.Sequence
		n -= size
	}
	return nil
}
