package outbox

import (
	"math/bits"
	"slices"
	"time"
)

// The model explores every order in which a few transactions, two relays, a database that crashes and a broker
// that is wiped can interact. The relays' decisions are made by the real code of position.go. The rest models
// what the database and the broker promise, and what session.go and relay.go do step by step.

// rules are the promises that the proof in doc.go rests on. Each is a value, so that a test can remove it;
// proven holds them all.
type rules struct {
	xidFirst    bool // a transaction has its xid before it allocates an id
	oneSnapshot bool // a read and its xmin come from the same snapshot
	expected    bool // the broker refuses a batch whose expected sequence is not its last
	mine        bool // a checkpoint is appended only after one of the same relay
	repeats     bool // a takeover stores the gaps again: the row it follows may not be the one it loaded
	// stamp is what new gaps are stamped with, given the read that missed them. Nil, which is what is proven:
	// the xid of the transaction that records them.
	stamp func(missed sighting) uint64
}

var proven = rules{xidFirst: true, oneSnapshot: true, expected: true, mine: true, repeats: true}

// budget limits how often the listed things may happen; everything else may happen at any time.
type budget struct {
	txs, ids, takeOvers, beats, aheads uint8
	lostAcks, delays, crashes, wipes   uint8
	relays                             int  // 1 or 2
	batch                              int  // events in a batch
	singles                            bool // they are published one by one
	window                             int  // the checkpoint that a replay starts from
}

// state is everything that the database, the broker and both relays remember. Slices are never changed in place,
// so a copy of the struct is a copy of the state.
type state struct {
	next, ended, flushed uint64 // xids: the next one; the highest that ended; what a crash resets next to
	lastID               int64
	begun                int
	open                 []tx
	committed            ids8
	checkpoints          []stored
	durable              int // this many checkpoints survive a crash
	streamID             int64
	stream               []int64
	late                 *batch // sent, given up by its sender, still in flight
	relays               [2]relay
	left                 budget
}

// ids8 is a set of the ids 1 to 8.
type ids8 uint8

func (s ids8) has(id int64) bool { return s>>(id-1)&1 == 1 }

func (s ids8) rows() []row {
	rows := make([]row, 0, 8)
	for id := int64(1); s != 0; id, s = id+1, s>>1 {
		if s&1 == 1 {
			rows = append(rows, row{ID: id})
		}
	}
	return rows
}

type tx struct {
	number int
	xid    uint64 // 0: not assigned yet
	ids    ids8
}

// stored is a row of the checkpoint table; its number is its index.
type stored struct {
	position
	leader int // 0: nobody
	own    bool
	xid    uint64 // what its own gaps are stamped with
}

type batch struct {
	ids      []int64
	expected uint64
}

// sighting is the model's form of a read.
type sighting struct {
	some               bool
	found, fresh       ids8
	cut                bool
	xmin, xmax, before uint64 // before: an xid assigned before the read
}

func (s sighting) read() read {
	return read{xmin: s.xmin, found: s.found.rows(), fresh: s.fresh.rows(), foundAll: !s.cut}
}

// What a relay does next. The comments continue the name.
const (
	loading    = iota // the newest checkpoint; it remembers nothing
	takingOver        // from the writer of p
	looking           // whether the stream is as p says
	correcting        // p, by writing next
	reading           // what follows p, or what was read ahead
	asking            // for xmin, if that is not part of the read
	publishing
	writing // what was published, or that gaps have closed; first what is behind
)

type relay struct {
	does   int
	p      position
	next   position // when correcting
	behind sighting // published after p, its checkpoint not yet written
	end    uint64   // where the stream ended after that
	sees   sighting // when asking, publishing or writing
	ahead  sighting // read before p was written
	sent   int      // when publishing one by one: this many are acknowledged
	acked  uint64   // when writing: where the stream ends
	drawn  uint64   // an xid that is invalid as a stamp, because it was assigned before the read
}

// at returns the position that the broker has acknowledged.
func (r *relay) at() position {
	if !r.behind.some {
		return r.p
	}
	p := r.p.advance(r.behind.read())
	p.streamSeq = r.end
	return p
}

func newState(b budget) state {
	return state{next: 1, flushed: 1, streamID: 1, left: b, durable: 1, checkpoints: []stored{{own: true}}}
}

// snapshot returns what one statement reads at position p.
func (m *model) snapshot(s *state, p position) sighting {
	out := sighting{some: true, xmin: s.xmin()}
	if m.stamp != nil {
		out.xmax = s.ended + 1
	}
	for id := int64(1); id <= s.lastID; id++ {
		if !s.committed.has(id) {
			continue
		}
		switch in := slices.ContainsFunc(p.gaps, func(g gap) bool { return g.from <= id && id <= g.to }); {
		case in && bits.OnesCount8(uint8(out.found)) < s.left.batch:
			out.found |= 1 << (id - 1)
		case id > p.hi && bits.OnesCount8(uint8(out.fresh)) < s.left.batch:
			out.fresh |= 1 << (id - 1)
		}
	}
	out.cut = bits.OnesCount8(uint8(out.found)) == s.left.batch
	for !out.cut && bits.OnesCount8(uint8(out.found|out.fresh)) > s.left.batch {
		out.fresh &^= 1 << (bits.Len8(uint8(out.fresh)) - 1)
	}
	return out
}

func (s *state) xmin() uint64 {
	low := s.next
	for _, t := range s.open {
		if t.xid != 0 {
			low = min(low, t.xid)
		}
	}
	return low
}

// load returns a checkpoint as the SELECT statement does; false if its gaps are not where it points to.
func (s *state) load(n int) (position, bool) {
	c := s.checkpoints[n]
	p := c.position
	p.n = int64(n)
	if c.own {
		p.gapsAt = p.n
	}
	if int(p.gapsAt) >= len(s.checkpoints) || !s.checkpoints[p.gapsAt].own {
		return p, false
	}
	g := s.checkpoints[p.gapsAt]
	p.gaps = stamped(g.gaps, g.xid)
	return p, true
}

// insert appends next behind prev as the INSERT statement does. With author 0, any author of prev is accepted.
func (m *model) insert(s *state, prev, next position, leader, author int, missed sighting) (position, bool) {
	n := int(prev.n)
	if n >= len(s.checkpoints) || len(s.checkpoints) > n+1 || m.mine && author != 0 &&
		s.checkpoints[n].leader != author {
		return prev, false
	}
	c := stored{position: next, leader: leader, xid: s.next,
		own: m.repeats && author == 0 || !slices.Equal(prev.gaps, next.gaps)}
	if m.stamp != nil && missed.some {
		c.xid = m.stamp(missed)
	}
	s.ended = s.next
	s.next++
	next.n = prev.n + 1
	if next.gapsAt = prev.gapsAt; c.own {
		next.gapsAt, next.gaps = next.n, stamped(next.gaps, c.xid)
	} else {
		c.gaps = nil
	}
	c.n, c.gapsAt = next.n, next.gapsAt
	s.checkpoints = append(slices.Clip(s.checkpoints), c)
	return next, true
}

// compared returns the position after p is compared with the stream.
func (s *state) compared(p position) position {
	id, last := time.Unix(s.streamID, 0), uint64(len(s.stream))
	next := p
	switch {
	case p.streamID.IsZero():
		next.streamID, next.streamSeq = id, 0
	case !id.Equal(p.streamID) || last < p.streamSeq:
		next, _ = s.load(s.replayFrom())
		next.streamID, next.streamSeq = id, 0
	}
	if last > next.streamSeq {
		var known ids8
		for _, e := range s.stream[next.streamSeq:] {
			known |= 1 << (e - 1)
		}
		next = next.absorb(known.rows())
		next.streamSeq = last
	}
	return next
}

func (s *state) replayFrom() int {
	if s.left.window < len(s.checkpoints) {
		return s.left.window
	}
	return 0
}

// store is what the broker does with a batch. It reports whether the batch was stored.
func (m *model) store(s *state, b batch) bool {
	if m.expected && uint64(len(s.stream)) != b.expected {
		return false
	}
	s.stream = append(slices.Clip(s.stream), b.ids...)
	return true
}

// batch returns what the relay sends next, and whether that is the last of what it has read.
func (r *relay) batch(singles bool) (b batch, last bool) {
	b.expected = r.at().streamSeq + uint64(r.sent)
	for _, e := range r.sees.read().rows()[r.sent:] {
		b.ids = append(b.ids, e.ID)
	}
	if singles && len(b.ids) > 1 {
		b.ids = b.ids[:1]
		return b, false
	}
	return b, true
}

// save writes the checkpoint that is pending.
func (m *model) save(s *state, i int) {
	r := &s.relays[i]
	next := r.p.advance(r.behind.read())
	next.streamSeq = r.end
	var ok bool
	r.p, ok = m.insert(s, r.p, next, i+1, i+1, r.behind)
	if r.behind, r.end = (sighting{}), 0; !ok {
		*r = relay{}
	}
}

// step makes relay i take its next step, without failures. It reports whether anything happened.
func (m *model) step(s *state, i int) bool {
	r := &s.relays[i]
	me, ok := i+1, true
	switch r.does {
	case loading:
		newest := len(s.checkpoints) - 1
		if r.p, ok = s.load(newest); !ok {
			return false
		}
		if r.does = looking; s.checkpoints[newest].leader != me {
			r.does = takingOver
		}
	case takingOver:
		r.p, ok = m.insert(s, r.p, r.p, me, 0, sighting{})
		r.does = looking
	case looking:
		r.next = s.compared(r.p)
		if r.does = correcting; r.next.streamID.Equal(r.p.streamID) && r.next.streamSeq == r.p.streamSeq {
			r.does, r.next = reading, position{}
		}
	case correcting:
		r.p, ok = m.insert(s, r.p, r.next, me, me, sighting{})
		r.does, r.next = reading, position{}
	case reading:
		if m.sight(s, r) {
			return true
		}
		if ok = r.behind.some; ok {
			m.save(s, i)
		}
		return ok
	case asking:
		r.sees.xmin = s.xmin()
		if !r.decide() && r.behind.some {
			m.save(s, i)
		}
	case publishing:
		b, last := r.batch(s.left.singles)
		if ok = m.store(s, b); last {
			r.does, r.acked, r.sent = writing, uint64(len(s.stream)), 0
		} else {
			r.sent++
		}
	case writing:
		if r.behind.some {
			m.save(s, i)
			return true
		}
		r.behind, r.end = r.sees, r.acked
		r.does, r.acked, r.sees, r.drawn = reading, 0, sighting{}, 0
	}
	if !ok {
		*r = relay{}
	}
	return true
}

// sight reads, or takes over the read-ahead.
func (m *model) sight(s *state, r *relay) bool {
	ahead := r.ahead.some
	if r.sees, r.ahead = r.ahead, (sighting{}); !ahead {
		if m.stamp != nil && r.drawn == 0 {
			r.drawn, s.next = s.next, s.next+1
			return true
		}
		r.sees = m.snapshot(s, r.at())
		r.sees.before = r.drawn
		if !m.oneSnapshot && len(r.at().gaps) > 0 {
			r.does = asking
			return true
		}
	}
	return r.decide() || ahead
}

// decide is the first part of session.step.
func (r *relay) decide() bool {
	seen, p := r.sees.read(), r.at()
	switch next := p.advance(seen); {
	case len(seen.rows()) > 0:
		r.does = publishing
	case !slices.Equal(next.gaps, p.gaps):
		r.does, r.acked = writing, p.streamSeq
	default:
		r.does, r.sees = reading, sighting{}
		return false
	}
	return true
}
