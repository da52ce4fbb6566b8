package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const rawBatch = 1000

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

// rawDrain publishes n messages in atomic batches, each expecting the stream to
// end where the one before it ended. The messages of a batch are used again for
// the next, so that next to nothing but the broker's work is measured.
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
