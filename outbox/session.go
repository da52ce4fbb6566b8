package outbox

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// session is one uninterrupted time of leadership. It ends at the first error.
type session struct {
	*Relay
	p          position
	ahead      chan prepared // the batch after the one in flight, if it was begun
	written    time.Time     // when p was written
	worked     time.Time     // when events were last published
	looked     time.Time     // when the stream was last compared with p
	reconnects uint64        // of the NATS connection, as of looked
}

// prepared is a batch that was read and rendered.
type prepared struct {
	read
	msgs []*nats.Msg
	dead []deadEvent
	err  error
}

// prepare reads what follows position p. It touches nothing but the database.
func (s *session) prepare(ctx context.Context, p position) prepared {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	r, err := readEvents(ctx, s.Pool, s.Lane, p)
	b := prepared{read: r, err: err}
	for _, e := range r.rows() {
		if m, err := s.stream.message(e, s.NATS.MaxPayload()); err != nil {
			b.dead = append(b.dead, deadEvent{e, err})
		} else {
			b.msgs = append(b.msgs, m)
		}
	}
	return b
}

// prepareAhead prepares what follows p while the batch before it is in flight.
// The gaps of p have no stamps yet, or may get them after the read; both are
// harmless: a gap without a stamp is kept, and a read that shows every
// transaction below a stamp shows the owners, whenever the stamp was drawn.
func (s *session) prepareAhead(ctx context.Context, p position) {
	ahead := make(chan prepared, 1)
	go func() { ahead <- s.prepare(ctx, p) }()
	s.ahead = ahead
}

// next returns the batch that follows s.p.
func (s *session) next(ctx context.Context) prepared {
	if s.ahead == nil {
		return s.prepare(ctx, s.p)
	}
	b := <-s.ahead
	s.ahead = nil
	return b
}

// end waits for a batch that will not be sent.
func (s *session) end() {
	if s.ahead != nil {
		<-s.ahead
	}
}

// step reads once and publishes what it read. It reports whether it is worth
// reading again at once.
func (s *session) step(ctx context.Context) (busy bool, err error) {
	if err := s.fault("read"); err != nil {
		return false, err
	}
	b := s.next(ctx)
	if b.err != nil {
		return false, b.err
	}
	events := len(b.msgs) + len(b.dead)
	next := s.p.advance(b.read)
	if events == 0 && slices.Equal(next.gaps, s.p.gaps) {
		return false, s.idle(ctx)
	}
	if b.more {
		s.prepareAhead(ctx, next)
	}
	began := time.Now()
	if err := s.publish(ctx, b, &next); err != nil {
		return false, err
	}
	if err := s.write(ctx, next, b.dead); err != nil {
		return false, err
	}
	if events > 0 {
		s.worked = time.Now()
		call2(s.Hooks.Published, b.msgs, began)
	}
	return events > 0, nil
}

// publish sends the batch and moves next to where the stream then ends.
func (s *session) publish(ctx context.Context, b prepared, next *position) (err error) {
	for _, d := range b.dead {
		s.Log.Error("outbox: event is dead", "event", d.row.EventID, "type", d.row.Type, "err", d.err)
		call2(s.Hooks.Died, d.row.EventID, d.err)
	}
	if len(b.msgs) == 0 {
		return nil
	}
	if err := s.fault("publish"); err != nil {
		return err
	}
	ctx, cancel := s.whileConnected(ctx)
	defer cancel()
	if next.streamSeq, err = s.stream.publish(ctx, b.msgs, s.p.streamSeq); err != nil {
		return err
	}
	return s.fault("published")
}

func (s *session) write(ctx context.Context, next position, dead []deadEvent) error {
	if err := s.fault("checkpoint"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	p, err := s.cp.append(ctx, s.p, next, dead)
	if err != nil {
		return err
	}
	s.p, s.written = p, time.Now()
	return s.fault("checkpointed")
}

// idle writes the heartbeat and looks whether the broker still has everything.
func (s *session) idle(ctx context.Context) error {
	reconnects := s.NATS.Stats().Reconnects
	if reconnects != s.reconnects || time.Since(s.looked) > lookEvery {
		p, err := s.reconcile(ctx, s.p)
		if err != nil {
			return err
		}
		s.p, s.looked, s.reconnects = p, time.Now(), reconnects
	}
	if time.Since(s.written) > heartbeatEvery {
		return s.write(ctx, s.p, nil)
	}
	return nil
}

// rest waits for a wake-up, bounded by the safety poll.
func (s *session) rest(ctx context.Context) {
	poll := idlePoll
	if len(s.p.gaps) > 0 || time.Since(s.worked) < idlePoll {
		poll = busyPoll
	}
	t := time.NewTimer(poll)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-s.wake:
	case <-s.called:
	}
}

func (s *session) fault(point string) error {
	if s.Hooks.Fault == nil {
		return nil
	}
	return s.Hooks.Fault(point)
}

// call and call2 run a hook if it is set.
func call[A any](f func(A), a A) {
	if f != nil {
		f(a)
	}
}

func call2[A, B any](f func(A, B), a A, b B) {
	if f != nil {
		f(a, b)
	}
}
