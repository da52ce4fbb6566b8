package outbox

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// session is one uninterrupted time of leadership. It ends at the first error.
type session struct {
	*Relay
	p          position
	written    time.Time // when p was written
	worked     time.Time // when events were last published
	looked     time.Time // when the stream was last compared with p
	reconnects uint64    // of the NATS connection, as of looked
}

// step reads once and publishes what it read. It reports whether it is worth
// reading again at once.
func (s *session) step(ctx context.Context) (busy bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*ioTimeout)
	defer cancel()
	if err := s.fault("read"); err != nil {
		return false, err
	}
	r, err := readEvents(ctx, s.Pool, s.Lane, s.p)
	if err != nil {
		return false, err
	}
	rows := r.rows()
	next := s.p.advance(r)
	if len(rows) == 0 && sameGaps(next.gaps, s.p.gaps) {
		return false, s.idle(ctx)
	}
	began := time.Now()
	dead, err := s.publish(ctx, rows, &next)
	if err != nil {
		return false, err
	}
	if err := s.write(ctx, next, dead); err != nil {
		return false, err
	}
	if len(rows) > 0 {
		s.worked = time.Now()
		call2(s.Hooks.Published, len(rows)-len(dead), time.Since(began))
	}
	return len(rows) > 0, nil
}

// publish sends rows as one atomic batch and moves next to where the stream
// then ends. It returns the rows that can never be sent.
func (s *session) publish(ctx context.Context, rows []row, next *position) (dead []deadEvent, err error) {
	msgs := make([]*nats.Msg, 0, len(rows))
	for _, r := range rows {
		m, err := s.stream.message(r, s.NATS.MaxPayload())
		if err != nil {
			s.Log.Error("outbox: event is dead", "event", r.EventID, "type", r.Type, "err", err)
			call2(s.Hooks.Died, r.EventID, err)
			dead = append(dead, deadEvent{r, err})
			continue
		}
		msgs = append(msgs, m)
	}
	if len(msgs) == 0 {
		return dead, nil
	}
	if err := s.fault("publish"); err != nil {
		return nil, err
	}
	if next.streamSeq, err = s.stream.publish(ctx, msgs, s.p.streamSeq); err != nil {
		return nil, err
	}
	return dead, s.fault("published")
}

func (s *session) write(ctx context.Context, next position, dead []deadEvent) error {
	if err := s.fault("checkpoint"); err != nil {
		return err
	}
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
