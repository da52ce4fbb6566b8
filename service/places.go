package service

import (
	"container/heap"
	"container/list"
	"net/netip"
	"slices"
	"sync"
)

// Places bounds how many of something, such as connections, there are at a time: in total, a quarter of the
// total for one address, and half of it for each wider network, see [Networks]. A place is idle or busy. When
// there is no room, an idle place is taken back for a newcomer: the one that has been idle longest, in the
// network with the most idle places. When all are busy, the oldest place of the network that holds most is
// taken back, if that network holds more than the newcomer's network would then hold. Safe for concurrent use.
type Places struct {
	total int

	mu        sync.Mutex
	clock     int64  // logical time: the number of changes so far
	all       holder // places of addresses, which have shares
	exempt    holder // places of the zero address, which has no share
	byNetwork map[netip.Prefix]*holder
}

// Place is one place that was taken.
type Place struct {
	places   *Places
	holder   *holder // nil once the place is free
	element  *list.Element
	busy     bool
	since    int64 // in places.clock time
	takeBack func()
}

// Grant is the result of [Places.Take].
type Grant int

// Results of [Places.Take].
const (
	Granted     Grant = iota
	Full              // no place is left for anyone
	NetworkFull       // no place is left for this address or its network
)

// holder is a network that holds places, or all networks together. The places themselves are in the lists of
// the narrowest networks.
type holder struct {
	prefix      netip.Prefix
	within      *holder   // the next wider network
	inside      networks  // the next narrower ones
	index       int       // in within.inside
	share       int       // most places it may hold
	taken, idle int       // numbers of places
	waiting     list.List // idle places, the one idle for longest in front
	working     list.List // busy places, the oldest in front
}

// NewPlaces returns total free places; total must be positive.
func NewPlaces(total int) *Places {
	return &Places{
		total: total, byNetwork: make(map[netip.Prefix]*holder),
		all: holder{share: total}, exempt: holder{share: total},
	}
}

// Take takes a place for an address; the place is idle at first. If the place is taken back before
// [Place.Free], takeBack is called once, on the goroutine of another Take. The zero address has no share of its
// own, and its places are taken back only for another zero address.
func (p *Places) Take(a netip.Addr, takeBack func()) (*Place, Grant) {
	p.mu.Lock()
	path := p.path(a)
	victim, grant := p.room(path)
	var place *Place
	if grant == Granted {
		place = &Place{places: p, takeBack: takeBack}
		victim.remove()
		place.join(p.enter(path))
	}
	p.mu.Unlock()
	if victim != nil {
		victim.takeBack()
	}
	return place, grant
}

// path returns the holders of an address's networks, narrowest first. A network that holds nothing yet gets a
// new holder without a wider one.
func (p *Places) path(a netip.Addr) []*holder {
	var path []*holder
	for _, n := range Networks(a) {
		h := p.byNetwork[n.Prefix]
		if h == nil {
			h = &holder{prefix: n.Prefix, share: (p.total + 1) / 2}
			if n.Times == 1 {
				h.share = (p.total + 3) / 4
			}
		}
		path = append(path, h)
	}
	return path
}

// room returns the place to take back for a newcomer, or nil if there is room without that.
func (p *Places) room(path []*holder) (victim *Place, grant Grant) {
	full := p.all.taken+p.exempt.taken == p.total
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
	victim = p.all.longestIdle()
	if victim == nil && len(path) == 0 {
		victim = p.exempt.longestIdle()
	}
	if victim == nil {
		victim = p.all.oldestOfMost(path)
	}
	if victim != nil {
		grant = Granted
	}
	return victim, grant
}

// enter registers the networks of a path, and returns the holder that the place belongs to.
func (p *Places) enter(path []*holder) *holder {
	within := &p.all
	if len(path) == 0 {
		return &p.exempt
	}
	for _, h := range slices.Backward(path) {
		if h.within == nil || h.taken == 0 {
			h.within = within
			heap.Push(&within.inside, h)
			p.byNetwork[h.prefix] = h
		}
		within = h
	}
	return path[0]
}

// longestIdle returns the idle place to take back first, or nil if no place is idle.
func (h *holder) longestIdle() *Place {
	if h.idle == 0 {
		return nil
	}
	return h.next()
}

// oldestOfMost returns the oldest busy place of the network that holds most, or nil if that network does not
// hold more than the newcomer's would. Call it only when no place is idle.
func (h *holder) oldestOfMost(newcomer []*holder) *Place {
	if len(newcomer) == 0 || len(h.inside) == 0 || h.inside[0].taken <= newcomer[len(newcomer)-1].taken+1 {
		return nil
	}
	return h.next()
}

// next returns the place to take back first. Idle places come before busy ones.
func (h *holder) next() *Place {
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
	return first.Value.(*Place)
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

func (pl *Place) join(h *holder) {
	pl.holder, pl.element = h, h.waiting.PushBack(pl)
	pl.touch()
	h.count(1, 1)
}

func (pl *Place) touch() {
	pl.places.clock++
	pl.since = pl.places.clock
}

// remove frees the place, if it has not been freed before.
func (pl *Place) remove() {
	if pl == nil || pl.holder == nil {
		return
	}
	h := pl.holder
	pl.holder = nil
	if pl.busy {
		h.working.Remove(pl.element)
		h.count(-1, 0)
	} else {
		h.waiting.Remove(pl.element)
		h.count(-1, -1)
	}
	for ; h.taken == 0 && h.within != nil; h = h.within {
		heap.Remove(&h.within.inside, h.index)
		delete(pl.places.byNetwork, h.prefix)
	}
}

// Free gives the place back; further calls do nothing.
func (pl *Place) Free() {
	pl.places.mu.Lock()
	defer pl.places.mu.Unlock()
	pl.remove()
}

// SetBusy makes the place busy or idle.
func (pl *Place) SetBusy(busy bool) {
	pl.places.mu.Lock()
	defer pl.places.mu.Unlock()
	if pl.holder == nil || pl.busy == busy {
		return
	}
	pl.busy = busy
	from, to, idle := &pl.holder.waiting, &pl.holder.working, -1
	if !busy {
		from, to, idle = to, from, 1
	}
	from.Remove(pl.element)
	pl.element = to.PushBack(pl)
	pl.touch()
	pl.holder.count(0, idle)
}

// networks is a heap of the networks that hold places. In front is the network with the most idle places; among
// equals the one that holds most; among those, the one whose next place is oldest.
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
