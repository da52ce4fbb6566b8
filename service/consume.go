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
	fetchWait       = time.Second // length of an idle fetch; bounds how long Consume takes to end
	consumerRequest = 2 * time.Second
)

// Message is one message of a stream. It has no stream sequence: sequences restart when a broker loses its
// data, so nothing may depend on them.
type Message struct {
	Subject string              // on which it was published
	Headers map[string][]string // names in exact case
	Body    []byte              // at most as large as the server allows
}

// ConsumerConfig names a durable consumer.
type ConsumerConfig struct {
	Stream   string   // name
	Durable  string   // name; it keeps its position under this name
	Subjects []string // filter; empty takes all
	Batch    int      // most messages per call of handle
	// Linger is how long a batch waits for more messages when they arrive quickly, that is, when the previous
	// batch held more than one. Default 0.
	Linger time.Duration
	// External means that another program creates the consumer; Consume waits for it.
	External bool
	Log      *slog.Logger // required
	// Tracer begins a span for each message that carries a trace, and puts that span into the message's header.
	// Nil disables tracing.
	Tracer *Tracer
}

// Consume passes the stream's messages to handle in batches, and acknowledges a batch when handle returns nil.
// A batch holds the messages that have already arrived; a single message does not wait for others. Consume
// returns nil when ctx ends. It returns an error, at once, only if it cannot make a JetStream client from nc.
//
// If handle fails, Consume retries the same batch, with full-jitter back-off up to 5 s, and meanwhile requests
// no more messages. handle must set aside a message that can never succeed. Messages may be redelivered, and in
// another order: handle must be idempotent. It should write to Postgres only, because after 30 s the server
// delivers an unacknowledged message to another replica as well.
//
// A missing consumer is created, unless it is External, and reads the stream from its beginning; only migrate
// and broker update one that exists. Consume waits for a missing stream. When a broker is unreachable, paused,
// or returns without its data, Consume looks the consumer up again, and creates it if necessary.
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

// session looks the consumer up and fetches from it until ctx ends or an error occurs.
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

// bind looks up the durable consumer. If it is missing and not External, bind creates it.
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

// fetch requests up to one batch and handles messages as they arrive. When ctx ends, it does not cancel the
// request: messages that the server has already sent would reach nobody until ackWait had passed. It waits for
// the request to end and returns the remaining messages to the server at once, for other replicas.
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

// giveBack asks the server to redeliver the message now. If the request is lost, the server does so after
// ackWait.
func giveBack(m jetstream.Msg) { _ = m.Nak() }

// over is a timer channel that has already fired.
var over = func() <-chan time.Time { c := make(chan time.Time); close(c); return c }()

// gather adds to first the messages that have already arrived, and those that arrive while the batch lingers.
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

// process calls handle until it succeeds, then acknowledges the batch. If ctx ends first, it returns the batch
// to the server.
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

// acknowledge acknowledges batch, provided that the consumer is still the one that delivered it. An
// acknowledgement identifies its message only by stream and consumer sequence. After a broker has lost its
// data, those sequences belong to other messages, which must not be acknowledged without having been handled.
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
			return errors.New("the consumer was replaced during the disconnect")
		}
		s.reconnects = now
	}
	for _, m := range batch {
		_ = m.Ack() // if it is lost, the batch is redelivered; handle is idempotent
	}
	return nil
}
