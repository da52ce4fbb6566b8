package service

import (
	"container/heap"
	"container/list"
	"net/netip"
	"slices"
	"sync"
)

// ConnLimiter bounds how many of something, such as connections, there are at a time: in total, a quarter of the
// total for one address, and half of it for each wider network, see [Networks]. A slot is idle or busy. When
// there is no room, an idle slot is taken back for a newcomer: the one that has been idle longest, in the network
// with the most idle slots. When all are busy, the oldest slot of the network that holds most is taken back, if
// that network holds more than the newcomer's network would then hold. Safe for concurrent use.
type ConnLimiter struct {
	total int

	mu        sync.Mutex
	clock     int64  // logical time: the number of changes so far
	all       holder // slots of addresses, which have shares
	exempt    holder // slots of the zero address, which has no share
	byNetwork map[netip.Prefix]*holder
}

// Slot is one slot that was taken.
type Slot struct {
	limiter *ConnLimiter
	holder  *holder // nil once the slot is free
	element *list.Element
	busy    bool
	since   int64 // in limiter.clock time
	evict   func()
}

// Grant is the result of [ConnLimiter.Acquire].
type Grant int

// Results of [ConnLimiter.Acquire].
const (
	Granted     Grant = iota
	Full              // no slot is left for anyone
	NetworkFull       // no slot is left for this address or its network
)

// holder is a network that holds slots, or all networks together. The slots themselves are in the lists of
// the narrowest networks.
type holder struct {
	prefix      netip.Prefix
	within      *holder   // the next wider network
	inside      networks  // the next narrower ones
	index       int       // in within.inside
	share       int       // most slots it may hold
	taken, idle int       // numbers of slots
	waiting     list.List // idle slots, the one idle for longest in front
	working     list.List // busy slots, the oldest in front
}

// NewConnLimiter returns total free slots; total must be positive.
func NewConnLimiter(total int) *ConnLimiter {
	return &ConnLimiter{
		total: total, byNetwork: make(map[netip.Prefix]*holder),
		all: holder{share: total}, exempt: holder{share: total},
	}
}

// Acquire takes a slot for an address; the slot is idle at first. If the slot is taken back before
// [Slot.Release], evict is called once, on the goroutine of another Acquire. The zero address has no share of its
// own, and its slots are taken back only for another zero address.
func (c *ConnLimiter) Acquire(a netip.Addr, evict func()) (*Slot, Grant) {
	c.mu.Lock()
	path := c.path(a)
	victim, grant := c.room(path)
	var slot *Slot
	if grant == Granted {
		slot = &Slot{limiter: c, evict: evict}
		victim.remove()
		slot.join(c.enter(path))
	}
	c.mu.Unlock()
	if victim != nil {
		victim.evict()
	}
	return slot, grant
}

// path returns the holders of an address's networks, narrowest first. A network that holds nothing yet gets a
// new holder without a wider one.
func (c *ConnLimiter) path(a netip.Addr) []*holder {
	var path []*holder
	for _, n := range Networks(a) {
		h := c.byNetwork[n.Prefix]
		if h == nil {
			h = &holder{prefix: n.Prefix, share: (c.total + 1) / 2}
			if n.Times == 1 {
				h.share = (c.total + 3) / 4
			}
		}
		path = append(path, h)
	}
	return path
}

// room returns the slot to take back for a newcomer, or nil if there is room without that.
func (c *ConnLimiter) room(path []*holder) (victim *Slot, grant Grant) {
	full := c.all.taken+c.exempt.taken == c.total
	grant = NetworkFull
	if full {
		grant = Full
	}
	for _, h := range path {
		if h.taken >= h.share {
			if victim = h.longestIdle(); victim != nil {
				grant = Granted
			}
			return victim, grant
		}
	}
	if !full {
		return nil, Granted
	}
	victim = c.all.longestIdle()
	if victim == nil && len(path) == 0 {
		victim = c.exempt.longestIdle()
	}
	if victim == nil {
		victim = c.all.oldestOfMost(path)
	}
	if victim != nil {
		grant = Granted
	}
	return victim, grant
}

// enter registers the networks of a path, and returns the holder that the slot belongs to.
func (c *ConnLimiter) enter(path []*holder) *holder {
	within := &c.all
	if len(path) == 0 {
		return &c.exempt
	}
	for _, h := range slices.Backward(path) {
		if h.within == nil || h.taken == 0 {
			h.within = within
			heap.Push(&within.inside, h)
			c.byNetwork[h.prefix] = h
		}
		within = h
	}
	return path[0]
}

// longestIdle returns the idle slot to take back first, or nil if no slot is idle.
func (h *holder) longestIdle() *Slot {
	if h.idle == 0 {
		return nil
	}
	return h.next()
}

// oldestOfMost returns the oldest busy slot of the network that holds most, or nil if that network does not
// hold more than the newcomer's would. Call it only when no slot is idle.
func (h *holder) oldestOfMost(newcomer []*holder) *Slot {
	if len(newcomer) == 0 || len(h.inside) == 0 || h.inside[0].taken <= newcomer[len(newcomer)-1].taken+1 {
		return nil
	}
	return h.next()
}

// next returns the slot to take back first. Idle slots come before busy ones.
func (h *holder) next() *Slot {
	for len(h.inside) > 0 {
		h = h.inside[0]
	}
	first := h.waiting.Front()
	if first == nil {
		first = h.working.Front()
	}
	if first == nil {
		return nil
	}
	return first.Value.(*Slot)
}

// count adds to the numbers of a holder and of all wider ones.
func (h *holder) count(taken, idle int) {
	for ; h != nil; h = h.within {
		h.taken += taken
		h.idle += idle
		if h.within != nil {
			heap.Fix(&h.within.inside, h.index)
		}
	}
}

func (s *Slot) join(h *holder) {
	s.holder, s.element = h, h.waiting.PushBack(s)
	s.touch()
	h.count(1, 1)
}

func (s *Slot) touch() {
	s.limiter.clock++
	s.since = s.limiter.clock
}

// remove frees the slot, if it has not been freed before.
func (s *Slot) remove() {
	if s == nil || s.holder == nil {
		return
	}
	h := s.holder
	s.holder = nil
	if s.busy {
		h.working.Remove(s.element)
		h.count(-1, 0)
	} else {
		h.waiting.Remove(s.element)
		h.count(-1, -1)
	}
	for ; h.taken == 0 && h.within != nil; h = h.within {
		heap.Remove(&h.within.inside, h.index)
		delete(s.limiter.byNetwork, h.prefix)
	}
}

// Release gives the slot back; further calls do nothing.
func (s *Slot) Release() {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	s.remove()
}

// SetBusy makes the slot busy or idle.
func (s *Slot) SetBusy(busy bool) {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	if s.holder == nil || s.busy == busy {
		return
	}
	s.busy = busy
	from, to, idle := &s.holder.waiting, &s.holder.working, -1
	if !busy {
		from, to, idle = to, from, 1
	}
	from.Remove(s.element)
	s.element = to.PushBack(s)
	s.touch()
	s.holder.count(0, idle)
}

// networks is a heap of the networks that hold slots. In front is the network with the most idle slots; among
// equals the one that holds most; among those, the one whose next slot is oldest.
type networks []*holder

func (n networks) Len() int { return len(n) }

func (n networks) Less(i, j int) bool {
	if n[i].idle != n[j].idle {
		return n[i].idle > n[j].idle
	}
	if n[i].taken != n[j].taken {
		return n[i].taken > n[j].taken
	}
	a, b := n[i].next(), n[j].next()
	return a != nil && (b == nil || a.since < b.since)
}

func (n networks) Swap(i, j int) {
	n[i], n[j] = n[j], n[i]
	n[i].index, n[j].index = i, j
}

// Push implements heap.Interface.
func (n *networks) Push(x any) {
	h := x.(*holder)
	h.index = len(*n)
	*n = append(*n, h)
}

// Pop implements heap.Interface.
func (n *networks) Pop() any {
	last := len(*n) - 1
	h := (*n)[last]
	(*n)[last] = nil
	*n = (*n)[:last]
	return h
}
