package outbox

import (
	"cmp"
	"slices"
	"time"
)

// keys renders states so that two states with equal futures have equal keys: xids count only by their order, and
// checkpoints only while something may still read them.
type keys struct {
	b     []byte
	xids  []xidAt
	order []uint64
}

type xidAt struct {
	at  int
	xid uint64
}

func (k *keys) num(n ...int64) {
	for _, n := range n {
		k.b = append(k.b, byte(n))
	}
}

func (k *keys) xid(x uint64) {
	k.b = append(k.b, 0)
	if x != 0 {
		k.xids = append(k.xids, xidAt{len(k.b) - 1, x})
	}
}

func (k *keys) gaps(gaps []gap, stamp uint64) {
	k.num(int64(len(gaps)))
	for _, g := range gaps {
		k.num(g.from, g.to)
		if g.stamp == 0 {
			g.stamp = stamp
		}
		k.xid(g.stamp)
	}
}

func (k *keys) position(p position, stamp uint64) {
	id := int64(0)
	if p.streamID != (time.Time{}) {
		id = p.streamID.Unix()
	}
	k.num(p.n, p.hi, p.gapsAt, id, int64(p.streamSeq))
	k.gaps(p.gaps, stamp)
}

func (k *keys) sighting(s sighting) {
	if !s.some {
		k.num(0)
		return
	}
	cut := int64(0)
	if s.cut {
		cut = 1
	}
	k.num(1, int64(s.found), int64(s.fresh), cut)
	k.xid(s.xmin)
	k.xid(s.xmax)
	k.xid(s.before)
}

func (k *keys) relay(r relay) {
	k.num(int64(r.does))
	if r.does == loading {
		return
	}
	k.position(r.p, 0)
	if r.does == correcting {
		k.position(r.next, 0)
	}
	k.num(int64(r.acked), int64(r.end), int64(r.sent))
	k.xid(r.drawn)
	k.sighting(r.behind)
	k.sighting(r.sees)
	k.sighting(r.ahead)
}

// of returns the key, valid until the next call.
func (k *keys) of(s *state, mutated bool) []byte {
	k.b, k.xids, k.order = k.b[:0], k.xids[:0], k.order[:0]
	l := s.left
	k.num(int64(l.txs), int64(l.ids), int64(l.takeOvers), int64(l.beats), int64(l.aheads), int64(l.lostAcks),
		int64(l.delays), int64(l.crashes), int64(l.wipes))
	k.num(s.lastID, int64(s.committed), s.streamID, int64(len(s.stream)))
	k.num(s.stream...)
	k.xid(s.next)
	if mutated {
		k.xid(s.ended)
	}
	k.num(int64(len(s.open)))
	for _, t := range s.open {
		k.num(int64(t.ids))
		k.xid(t.xid)
	}
	if s.late != nil {
		k.num(-1, int64(s.late.expected), int64(len(s.late.ids)))
		k.num(s.late.ids...)
	}
	// It does not matter which relay is which.
	first := 0
	if s.left.relays == 2 && before(s.relays[1], s.relays[0]) {
		first = 1
	}
	k.relay(s.relays[first])
	k.relay(s.relays[1-first])
	k.table(s, first)
	for _, x := range k.xids {
		k.order = append(k.order, x.xid)
	}
	slices.Sort(k.order)
	k.order = slices.Compact(k.order)
	for _, x := range k.xids {
		rank, _ := slices.BinarySearch(k.order, x.xid)
		k.b[x.at] = byte(rank + 1)
	}
	return k.b
}

// before is an arbitrary total order of relays.
func before(a, b relay) bool {
	return cmp.Or(cmp.Compare(a.does, b.does), cmp.Compare(a.p.n, b.p.n), cmp.Compare(a.p.streamSeq, b.p.streamSeq),
		cmp.Compare(a.p.hi, b.p.hi),
		cmp.Compare(a.behind.fresh, b.behind.fresh), cmp.Compare(a.sent, b.sent), cmp.Compare(a.sees.found,
			b.sees.found), cmp.Compare(a.sees.fresh, b.sees.fresh), cmp.Compare(a.ahead.fresh, b.ahead.fresh)) < 0
}

// table renders the checkpoints that matter.
func (k *keys) table(s *state, first int) {
	crash := s.left.crashes > 0
	var matters uint64
	for n := range s.checkpoints {
		newest := n == len(s.checkpoints)-1
		replay := (n == 0 || n == s.left.window) && (s.left.wipes > 0 || s.streamID > 1)
		if newest || replay || crash && n >= s.durable-1 {
			matters |= 1<<n | 1<<s.checkpoints[n].gapsAt
		}
	}
	for _, r := range s.relays {
		if r.does != loading {
			matters |= 1 << r.p.gapsAt
		}
	}
	if crash {
		k.num(int64(s.durable))
		k.xid(s.flushed)
	}
	k.num(int64(len(s.checkpoints)))
	for n, c := range s.checkpoints {
		if matters>>n&1 == 0 {
			continue
		}
		leader := c.leader
		if leader > 0 && first == 1 {
			leader = 3 - leader
		}
		k.num(int64(n), int64(leader))
		k.position(c.position, c.xid)
		if c.own {
			k.num(-1)
		}
		if crash {
			k.xid(c.xid)
		}
	}
}
