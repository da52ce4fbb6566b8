package outbox

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Hooks observe a relay. Every field may be nil. The relay calls them from its own goroutine; they must not
// block.
type Hooks struct {
	// Published is called when the broker has acknowledged a batch, with its messages, which must not be changed
	// or kept, and the time at which publishing began.
	Published func(batch []*nats.Msg, began time.Time)
	// Refused is called when the broker refused a batch because the stream did not end where the relay expected:
	// another relay published, or a late batch of this relay arrived.
	Refused func()
	// Died is called for each event that the next checkpoint moves to the dead table. If that checkpoint is not
	// written, it is called again.
	Died func(eventID string, err error)
	// Led is called when this relay gains (true) or gives up (false) leadership.
	Led func(leading bool)
	// Recovered is called when the stream holds events that no checkpoint records: an acknowledgement or a
	// checkpoint was lost.
	Recovered func(events int)
	// BrokerLost is called when the stream was replaced or rolled back, before the events of the replay window
	// are published again.
	BrokerLost func()
	// Waiting is called when the relay cannot continue, with the error and since when, and again when the reason
	// changes (one of [Reasons]). It is called with nil when the relay continues or ends.
	Waiting func(why error, since time.Time)
	// Foreign is called when the relay reads the stream and finds foreign messages, with the sequence of the
	// first one. Raise an alarm: another program publishes into the stream.
	Foreign func(seq uint64)
	// Fault injects an error before a step ("read", "publish", "checkpoint"), or after a step that has happened
	// ("published", "checkpointed"). For tests.
	Fault func(point string) error
}

const (
	heartbeatEvery = 2 * time.Second        // how often an idle leader writes a checkpoint
	staleAfter     = 3 * heartbeatEvery     // a leader silent for longer is replaced
	standbyPoll    = 500 * time.Millisecond // how often a standby checks the leader
	lookEvery      = 5 * time.Second        // how often an idle leader checks the stream
	busyPoll       = 100 * time.Millisecond // safety poll after work, and while gaps are open
	idlePoll       = time.Second            // safety poll otherwise
	ioTimeout      = 5 * time.Second        // limit of each broker and database call
	maxBackoff     = 500 * time.Millisecond // after an error of the broker or the database
	handedOver     = "handed over"          // body of the wake-up that tells the standbys to take over
)

// Relay publishes the committed events of one lane into its stream, each exactly once. Run one in every replica:
// they elect a leader through the checkpoint table, and the broker refuses all others.
type Relay struct {
	RelayConfig
	wake   chan struct{} // this process committed events
	called chan string   // another replica committed events, or handed over
	cp     checkpoints
	stream stream
}

// NewRelay checks the configuration and returns a relay. Its error names everything that is wrong. It does no
// I/O.
func NewRelay(c RelayConfig) (*Relay, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.ReplayWindow = cmp.Or(c.ReplayWindow, time.Hour)
	c.Retention = cmp.Or(c.Retention, 7*24*time.Hour)
	c.Log = cmp.Or(c.Log, slog.Default()).With("lane", c.Lane, "stream", c.Stream.Name)
	js, err := jetstream.New(c.NATS, jetstream.WithDefaultTimeout(ioTimeout))
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return &Relay{
		RelayConfig: c,
		wake:        make(chan struct{}, 1),
		called:      make(chan string, 1),
		cp:          checkpoints{pool: c.Pool, lane: c.Lane, me: newID()},
		stream: stream{
			js:       js,
			config:   c.Stream,
			external: c.ExternalStream,
			source:   c.Source,
			prefix:   c.SubjectPrefix,
		},
	}, nil
}

// Wake tells the relay that events were committed. It never blocks, is safe for concurrent use, and reaches the
// leader from any replica. Without the call, events wait for at most a second.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run relays until ctx ends. It then finishes the batch in flight and hands over leadership. Errors of the
// broker or the database do not end it: it retries until they stop, and logs when they begin and end. Run
// returns the cause of ctx's end; any other error means that it could not subscribe to wake-ups and did not
// start.
func (r *Relay) Run(ctx context.Context) error {
	sub, err := r.NATS.Subscribe(r.wakeSubject(), func(m *nats.Msg) {
		select {
		case r.called <- string(m.Data):
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()

	var w waiting
	defer w.over(r, "outbox: no longer waiting")
	for attempts := 0; ctx.Err() == nil; attempts++ {
		err := r.lead(ctx, func() {
			attempts = 0
			w.over(r, "outbox: relaying again")
		})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errSuperseded), refused(err):
			// another relay, or a late batch of ours, was there
			r.Log.Info("outbox: checking the stream again", "err", err)
			if refused(err) && r.Hooks.Refused != nil {
				r.Hooks.Refused()
			}
		default:
			w.failed(r, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(min(maxBackoff, 20*time.Millisecond<<min(attempts, 5)))):
		}
	}
	return context.Cause(ctx)
}

// lead waits for leadership, finds out where the stream ends, and relays. It returns at the first error: the
// state in memory may then be wrong, and the next call starts again from the tables and the stream.
func (r *Relay) lead(ctx context.Context, healthy func()) error {
	if err := r.cp.claim(ctx, r.Stream.Name, r.Source); err != nil {
		return err
	}
	p, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	if err := r.cp.verify(ctx, p); err != nil {
		return err
	}
	if p, err = r.reconcile(ctx, p); err != nil {
		return err
	}
	call(r.Hooks.Led, true)
	defer call(r.Hooks.Led, false)
	s := session{Relay: r, p: p, limit: maxBatch, written: time.Now(), looked: time.Now(),
		reconnects: r.NATS.Stats().Reconnects}
	defer s.end()
	defer r.retainBeside(ctx)()
	for ctx.Err() == nil {
		// A step in flight is finished even when ctx ends: it is short, and its outcome is then known.
		busy, err := s.step(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		healthy()
		if !busy {
			s.rest(ctx)
		}
		s.space(ctx)
	}
	if err := s.saved(); err != nil {
		return err
	}
	return r.resign(context.WithoutCancel(ctx), s.p)
}

// acquire returns the newest checkpoint once this relay may write the next one.
func (r *Relay) acquire(ctx context.Context) (position, error) {
	for {
		p, h, err := r.cp.newest(ctx)
		switch {
		case err != nil:
			return p, err
		case h.leader == r.cp.me:
			return p, nil
		case h.leader == "" || !h.fresh:
			p, err = r.cp.takeOver(ctx, p)
			if err == nil {
				r.Log.Info("outbox: leading", "checkpoint", p.n, "instead_of", h.leader)
			}
			return p, err
		}
		if err := r.standBy(ctx); err != nil {
			return p, err
		}
	}
}

// standBy forwards local wake-ups to the leader until it is time to check the leader again.
func (r *Relay) standBy(ctx context.Context) error {
	t := time.NewTimer(standbyPoll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
			return nil
		case why := <-r.called:
			if why == handedOver {
				return nil
			}
		case <-r.wake:
			// Lost if the broker is unreachable; the leader's poll then finds the events.
			_ = r.NATS.Publish(r.wakeSubject(), nil)
		}
	}
}

func (r *Relay) resign(ctx context.Context, p position) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	if _, err := r.cp.insert(ctx, p, p, nil, &r.cp.me, nil); err != nil { // nobody leads now
		return err
	}
	r.Log.Info("outbox: handed over", "checkpoint", p.n+1)
	if r.NATS.IsConnected() {
		_ = r.NATS.Publish(r.wakeSubject(), []byte(handedOver))
		_ = r.NATS.FlushWithContext(ctx)
	}
	return nil
}

// reconcile compares the position with the stream and returns the position to continue from. It writes a
// checkpoint if that differs.
func (r *Relay) reconcile(ctx context.Context, p position) (position, error) {
	ctx, cancel := r.whileConnected(ctx)
	defer cancel()
	if !r.NATS.IsConnected() {
		return p, errDisconnected
	}
	id, last, err := r.stream.look(ctx)
	if err != nil {
		return p, r.ofBroker(err)
	}
	next, dead := p, []deadEvent(nil)
	switch {
	case p.streamID.IsZero(): // the lane's first check of its stream
		next.streamID, next.streamSeq = id, 0
	case p.moved || !id.Equal(p.streamID) || last < p.streamSeq:
		if next, dead, err = r.rewind(ctx, p, id, last); err != nil {
			return p, err
		}
	case last == p.streamSeq:
		return p, nil
	}
	if last > next.streamSeq {
		rows, err := r.absorb(ctx, &next, last)
		if err != nil {
			return p, err
		}
		dead = append(dead, deadNoMore(rows)...)
	}
	return r.cp.append(ctx, p, next, dead)
}

// rewind returns the position from before the replay window. Either the broker has lost messages, and nobody
// knows which of them had been consumed; or the database has moved, and nobody knows what was published after it
// was copied. Events that died since that position are read again too.
func (r *Relay) rewind(ctx context.Context, p position, id time.Time, last uint64) (position, []deadEvent, error) {
	old, _, err := r.cp.replayStart(ctx, r.ReplayWindow, nil)
	if err != nil {
		return p, nil, err
	}
	dead, err := r.cp.deadAfter(ctx, old)
	if err != nil {
		return p, nil, err
	}
	r.Log.Warn("outbox: the broker lost data or the database moved, publishing again", "moved", p.moved,
		"stream_was", p.streamID, "stream_is", id, "sequence_was", p.streamSeq, "sequence_is", last,
		"from_event", old.hi, "to_event", p.hi)
	if !p.moved && r.Hooks.BrokerLost != nil {
		r.Hooks.BrokerLost()
	}
	old.streamID, old.streamSeq = id, last
	if !id.Equal(p.streamID) {
		old.streamSeq = 0 // a new stream may hold events of a relay that died right after creating it
	}
	return old, dead, nil
}

// absorb moves p behind the events that the stream holds beyond it, and returns those events: their
// acknowledgement or their checkpoint was lost.
func (r *Relay) absorb(ctx context.Context, p *position, last uint64) ([]row, error) {
	rows, foreign, err := r.stream.own(ctx, r.Pool, r.Lane, p.streamSeq, last)
	if err != nil {
		return nil, r.ofBroker(err)
	}
	if foreign != 0 {
		r.Log.Error("outbox: another program publishes into this stream", "sequence", foreign)
		call(r.Hooks.Foreign, foreign)
	}
	if len(rows) > 0 {
		r.Log.Info("outbox: found events whose acknowledgement was lost", "events", len(rows))
		call(r.Hooks.Recovered, len(rows))
	}
	*p = p.absorb(rows)
	p.streamSeq = last
	return rows, nil
}

// whileConnected limits ctx by ioTimeout and by the connection: when the connection breaks, a pending
// acknowledgement will never arrive.
func (r *Relay) whileConnected(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	lost := r.NATS.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	go func() {
		defer r.NATS.RemoveStatusListener(lost)
		select {
		case <-lost:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (r *Relay) wakeSubject() string { return "outbox.wake." + r.Stream.Name }

func newID() string {
	var b [16]byte
	_, _ = cryptorand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
