package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/outbox"
)

const (
	ackWait         = 30 * time.Second
	fetchWait       = time.Second // an idle fetch is asked for anew so often; bounds the end of Consume
	consumerRequest = 2 * time.Second
)

// Message is one message of a stream. Stream sequences are not given: they start
// again when a broker loses its data, so nothing may depend on them.
type Message struct {
	Subject string
	Headers map[string][]string // names in exact case
	Body    []byte
}

// ConsumerConfig names a durable consumer.
type ConsumerConfig struct {
	Stream   string
	Durable  string
	Subjects []string // filter; empty takes all
	Batch    int      // most messages that handle is given at once
	// Linger is how long a batch may wait for more messages while they come thick
	// and fast: the batch before it held several. Default 0.
	Linger time.Duration
	// External says that somebody else creates the consumer: it is waited for.
	External bool
	Log      *slog.Logger
	// Tracer makes a span of each message that carries a trace; nil for none. The
	// header of the message then names that span.
	Tracer *Tracer
}

// Consume hands the stream's messages to handle, in batches of what has arrived
// (a lone message is not kept waiting for others), and acknowledges a batch when
// handle returns nil. It returns nil when ctx ends, and not before.
//
// If handle fails, the same batch is tried again, with full-jitter back-off up
// to 5 s, and nothing more than one batch is taken from the server meanwhile. A
// message that can never succeed is for handle to put aside. Messages may come
// again and in another order: handle must be idempotent, and should write to
// Postgres only, since after 30 s another replica is given the same messages.
//
// The consumer is created if it is missing, reading the stream from its
// beginning, unless it is External; migrate changes it. The stream is waited for. A broker that is away,
// paused, or returns without its data is followed: the consumer is looked up,
// and if need be created, again.
func Consume(
	ctx context.Context, nc *nats.Conn, cfg ConsumerConfig, handle func(ctx context.Context, batch []Message) error,
) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("consume %s: %w", cfg.Stream, err)
	}
	c := &consumer{cfg: cfg, nc: nc, js: js, handle: handle}
	failures := Failures{Task: "consume " + cfg.Stream, Log: cfg.Log}
	for ctx.Err() == nil {
		received, err := c.session(ctx)
		if received {
			failures.Recovered()
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		pause(ctx, Backoff(failures.Add(ctx, outbox.Explain(err)), 50*time.Millisecond, time.Second))
	}
	return nil
}

type consumer struct {
	cfg    ConsumerConfig
	nc     *nats.Conn
	js     jetstream.JetStream
	handle func(ctx context.Context, batch []Message) error
}

// session looks the consumer up and fetches from it until something is wrong.
func (c *consumer) session(ctx context.Context) (received bool, err error) {
	s := &consumerSession{consumer: c, reconnects: c.nc.Stats().Reconnects}
	if s.jsc, err = c.bind(ctx); err != nil {
		return false, err
	}
	for ctx.Err() == nil {
		got, err := s.fetch(ctx)
		received = received || got
		if err != nil {
			return received, err
		}
	}
	return received, nil
}

// bind finds the durable consumer, or creates it.
func (c *consumer) bind(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, consumerRequest)
	defer cancel()
	found, err := c.js.Consumer(ctx, c.cfg.Stream, c.cfg.Durable)
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return found, err
	}
	if c.cfg.External {
		return nil, fmt.Errorf("consumer %s is missing; run migrate or broker: %w", c.cfg.Durable, err)
	}
	return c.js.CreateConsumer(ctx, c.cfg.Stream, c.cfg.durable())
}

type consumerSession struct {
	*consumer
	jsc        jetstream.Consumer
	reconnects uint64
	last       int // messages in the last batch
}

// fetch asks for up to a batch once and handles what comes of it, as it comes.
// The fetch is not cut off when ctx ends: messages that the server has sent by
// then would be nobody's until their acknowledgement's deadline. Its end is
// waited for, and what is left goes back to the server at once, for others.
func (s *consumerSession) fetch(ctx context.Context) (received bool, err error) {
	began := time.Now()
	fetched, err := s.jsc.Fetch(s.cfg.Batch, jetstream.FetchMaxWait(fetchWait))
	if err != nil {
		return false, err
	}
	defer func() {
		for m := range fetched.Messages() {
			giveBack(m)
		}
	}()
	for {
		var first jetstream.Msg
		select {
		case <-ctx.Done():
			return received, nil
		case m, ok := <-fetched.Messages():
			if !ok {
				if !received && fetched.Error() == nil && time.Since(began) < fetchWait/2 {
					return false, errors.New("the server ended an empty fetch early")
				}
				return received, fetched.Error()
			}
			first, received = m, true
		}
		if err := s.process(ctx, s.gather(ctx, first, fetched.Messages())); err != nil {
			return received, err
		}
	}
}

// giveBack has the message delivered again now. Unsent, that happens after ackWait.
func giveBack(m jetstream.Msg) { _ = m.Nak() }

// over is a time that has come.
var over = func() <-chan time.Time { c := make(chan time.Time); close(c); return c }()

// gather adds to first what has already arrived, or arrives while it lingers.
func (s *consumerSession) gather(ctx context.Context, first jetstream.Msg, more <-chan jetstream.Msg) []jetstream.Msg {
	batch := []jetstream.Msg{first}
	defer func() { s.last = len(batch) }()
	enough := over
	if s.last > 1 && s.cfg.Linger > 0 {
		timer := time.NewTimer(s.cfg.Linger)
		defer timer.Stop()
		enough = timer.C
	}
	for len(batch) < s.cfg.Batch {
		select {
		case m, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, m)
			continue
		default:
		}
		select {
		case m, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, m)
		case <-enough:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// process repeats handle until it succeeds, then acknowledges.
func (s *consumerSession) process(ctx context.Context, batch []jetstream.Msg) error {
	messages := make([]Message, len(batch))
	for i, m := range batch {
		messages[i] = Message{Subject: m.Subject(), Headers: m.Headers(), Body: m.Data()}
	}
	inSpan, spans := s.traceMessages(ctx, messages)
	defer func() {
		for _, span := range spans {
			span.End()
		}
	}()
	failures := Failures{Task: "handle " + s.cfg.Stream, Log: s.cfg.Log}
	for {
		err := s.handle(inSpan, messages)
		if err == nil {
			failures.Recovered()
			break
		}
		if ctx.Err() != nil {
			for _, m := range batch {
				giveBack(m)
			}
			return ctx.Err()
		}
		pause(ctx, Backoff(failures.Add(inSpan, err), 50*time.Millisecond, 5*time.Second))
	}
	return s.acknowledge(ctx, batch)
}

// acknowledge tells the server that batch is done, provided that it is still the
// consumer that delivered it. An acknowledgement names its message by stream and
// consumer sequence only; after a broker lost its data those numbers belong to
// other messages, which must not be acknowledged unseen.
func (s *consumerSession) acknowledge(ctx context.Context, batch []jetstream.Msg) error {
	if now := s.nc.Stats().Reconnects; now != s.reconnects {
		ctx, cancel := context.WithTimeout(ctx, consumerRequest)
		defer cancel()
		created := s.jsc.CachedInfo().Created
		info, err := s.jsc.Info(ctx)
		if err != nil {
			return fmt.Errorf("look up consumer after reconnect: %w", err)
		}
		if !info.Created.Equal(created) {
			return errors.New("the consumer is another one since the reconnect")
		}
		s.reconnects = now
	}
	for _, m := range batch {
		_ = m.Ack() // unsent, the batch is delivered again, which handle allows
	}
	return nil
}
