package outbox

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// session is one uninterrupted period of leadership. It ends at the first error.
type session struct {
	*Relay
	p          position        // what the broker has acknowledged
	saving     func() error    // waits for the checkpoint of p, if that is being written
	ahead      func() prepared // waits for the batch after the one in flight, if it was begun
	limit      int             // events in a batch
	sent       []*nats.Msg
	began      time.Time // when the last step began
	written    time.Time // when a checkpoint was last written
	worked     time.Time // when events were last published
	looked     time.Time // when the stream was last compared with p
	reconnects uint64    // of the NATS connection, as of looked
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
	r, err := readEvents(ctx, s.Pool, s.Lane, p, s.pace())
	rows := r.rows()
	b := prepared{read: r, err: err, msgs: make([]*nats.Msg, 0, len(rows))}
	for _, e := range rows {
		if m, err := s.stream.message(e, s.NATS.MaxPayload()); err != nil {
			b.dead = append(b.dead, deadEvent{e, err})
		} else {
			b.msgs = append(b.msgs, m)
		}
	}
	if s.limit = maxBatch; r.more && len(rows) > 0 { // large events: read about as many as fit
		s.limit = min(2*len(rows), maxBatch)
	}
	return b
}

// pace returns how many events the next batch may hold: fewer while events are being committed, because new events
// wait while a large batch keeps the servers busy.
func (s *session) pace() int {
	select {
	case <-s.wake:
	case <-s.called:
	default:
		return s.limit
	}
	return min(s.limit, liveBatch)
}

// step reads once and publishes what it read. Meanwhile, the next batch is read and the checkpoint of the
// previous one is written. It reports whether reading again at once is worthwhile.
//
// The read-ahead starts from a position whose gaps may be unstamped, or may get their stamps after the read.
// That is safe: an unstamped gap is kept, and once a snapshot's xmin has reached a gap's stamp, the read shows
// the effects of the gap's owner, whenever the stamp was assigned.
func (s *session) step(ctx context.Context) (busy bool, err error) {
	if err := s.fault("read"); err != nil {
		return false, err
	}
	s.began = time.Now()
	var b prepared
	if wait := s.ahead; wait == nil {
		b = s.prepare(ctx, s.p)
	} else {
		s.ahead = nil
		b = wait()
	}
	if b.err != nil {
		return false, b.err
	}
	next := s.p.advance(b.read)
	if len(b.msgs)+len(b.dead) == 0 && slices.Equal(next.gaps, s.p.gaps) {
		return false, s.idle(ctx)
	}
	if b.more {
		s.stream.spare, s.sent = s.sent, b.msgs
		s.ahead = beside(func() prepared { return s.prepare(ctx, next) })
	}
	last, err := s.publish(ctx, b)
	if err != nil {
		return false, err
	}
	if err := s.saved(); err != nil {
		return false, err
	}
	next = s.p.advance(b.read) // the gaps of s.p have their stamps now
	next.streamSeq = last
	return len(b.msgs)+len(b.dead) > 0, s.save(ctx, next, b.dead)
}

// publish sends the batch and returns the sequence that the stream then ends at.
func (s *session) publish(ctx context.Context, b prepared) (last uint64, err error) {
	for _, d := range b.dead {
		s.Log.Error("outbox: event is dead", "event", d.row.EventID, "type", d.row.Type, "err", d.err)
		call2(s.Hooks.Died, d.row.EventID, d.err)
	}
	if len(b.msgs) == 0 {
		return s.p.streamSeq, nil
	}
	if err := s.fault("publish"); err != nil {
		return 0, err
	}
	ctx, cancel := s.whileConnected(ctx)
	defer cancel()
	if !s.NATS.IsConnected() {
		return 0, errDisconnected // otherwise the connection would buffer the batch
	}
	began := time.Now()
	if last, err = s.stream.publish(ctx, b.msgs, s.p.streamSeq); err != nil {
		return 0, s.ofBroker(err)
	}
	s.worked = time.Now()
	if err := s.fault("published"); err != nil {
		return 0, err
	}
	call2(s.Hooks.Published, b.msgs, began)
	return last, nil
}

// save starts writing next as the checkpoint after s.p, which must be written already.
func (s *session) save(ctx context.Context, next position, dead []deadEvent) error {
	if err := s.fault("checkpoint"); err != nil {
		return err
	}
	prev := s.p
	var p position
	written := beside(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		p, err = s.cp.append(ctx, prev, next, dead)
		return err
	})
	s.p, s.saving = next, func() error {
		if err := written(); err != nil {
			return err
		}
		s.p, s.written = p, time.Now()
		return s.fault("checkpointed")
	}
	return nil
}

// saved waits until the checkpoint of s.p is written.
func (s *session) saved() error {
	if s.saving == nil {
		return nil
	}
	wait := s.saving
	s.saving = nil
	return wait()
}

// end waits for the read and the write in progress; their outcome no longer matters.
func (s *session) end() {
	if s.ahead != nil {
		s.ahead()
	}
	_ = s.saved()
}

// beside runs f in a goroutine and returns a function that waits for its result.
func beside[T any](f func() T) func() T {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return func() T { return <-done }
}

// idle writes the heartbeat. Every lookEvery, and after a reconnect, it also checks that the lane is still this
// relay's, that the sequence is still fit, and that the stream still ends where the position says.
func (s *session) idle(ctx context.Context) error {
	s.sent, s.stream.spare = nil, nil
	if err := s.saved(); err != nil {
		return err
	}
	reconnects := s.NATS.Stats().Reconnects
	if reconnects != s.reconnects || time.Since(s.looked) > lookEvery {
		if err := s.cp.claim(ctx, s.Stream.Name, s.Source); err != nil {
			return err
		}
		if err := s.cp.verify(ctx, s.p); err != nil {
			return err
		}
		p, err := s.reconcile(ctx, s.p)
		if err != nil {
			return err
		}
		s.p, s.looked, s.reconnects = p, time.Now(), reconnects
	}
	if time.Since(s.written) > heartbeatEvery {
		return s.save(ctx, s.p, nil)
	}
	return nil
}

// rest waits for a wake-up, or at most until the next safety poll.
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

// space waits until the next read is due, unless there is a backlog.
func (s *session) space(ctx context.Context) {
	wait := s.Spacing - time.Since(s.began)
	if wait <= 0 || s.ahead != nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(wait):
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
