package service

import (
	"container/heap"
	"container/list"
	"net/netip"
	"slices"
	"sync"
)

// Places bounds how many of something there are at a time: in total, a quarter of that
// for one address, and half of it for each wider network, see [Networks]. A place is
// idle or busy. When there is no room, an idle place is taken back for a newcomer: the
// one that has been idle longest, of the network that has most idle ones. While all are
// busy, the oldest place of the network that holds most is taken back, if that network
// holds more than the newcomer's would then. Safe for concurrent use.
type Places struct {
	total int

	mu        sync.Mutex
	clock     int64  // counts what happens
	all       holder // of those who have shares
	exempt    holder // of those who have none
	byNetwork map[netip.Prefix]*holder
}

// Place is one that is taken.
type Place struct {
	places   *Places
	holder   *holder // nil once the place is free
	element  *list.Element
	busy     bool
	since    int64 // by the clock of places
	takeBack func()
}

// Grant is the answer to [Places.Take].
type Grant int

// The answers.
const (
	Granted     Grant = iota
	Full              // there is no place left for anyone
	NetworkFull       // there is none left for this address or its network
)

// holder is a network that holds places, or all networks together. Places themselves
// are in the lists of the narrowest networks.
type holder struct {
	prefix      netip.Prefix
	within      *holder   // the next wider network
	inside      networks  // the next narrower ones
	index       int       // in within.inside
	share       int       // most places
	taken, idle int       // places
	waiting     list.List // idle places, the one that is idle longest in front
	working     list.List // busy places, the oldest in front
}

// NewPlaces returns so many free places; total must be positive.
func NewPlaces(total int) *Places {
	return &Places{
		total: total, byNetwork: make(map[netip.Prefix]*holder),
		all: holder{share: total}, exempt: holder{share: total},
	}
}

// Take takes an idle place for an address. takeBack is called, once and by another
// goroutine's Take, if the place is taken back before [Place.Free]. The zero address
// has no share of its own, and its places are taken back for another such one only.
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

// path returns the networks of an address as they are held, narrowest first. Those that
// hold nothing yet have no within.
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

// room returns the place to take back so that there is one for a newcomer, nil if none
// needs to be.
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

// enter makes the networks of a path known, and returns the one that the place is in.
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

// longestIdle returns nil if no place is idle.
func (h *holder) longestIdle() *Place {
	if h.idle == 0 {
		return nil
	}
	return h.next()
}

// oldestOfMost returns the oldest busy place of the network that holds most, if that
// holds more than the newcomer's would. No place is idle.
func (h *holder) oldestOfMost(newcomer []*holder) *Place {
	if len(newcomer) == 0 || len(h.inside) == 0 || h.inside[0].taken <= newcomer[len(newcomer)-1].taken+1 {
		return nil
	}
	return h.next()
}

// next returns the place that would be taken back first: idle ones come before busy ones.
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

// count adds to what a holder and all wider ones hold.
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

// remove frees a place that is taken.
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

// networks is a heap of those that hold places: the one with most idle ones in front, of
// equals the one that holds most, and of equals again the one whose next place is oldest.
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
