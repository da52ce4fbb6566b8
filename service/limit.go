package service

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Limiter lets each key do something so many times at once, and again once per
// interval. A key is a text, or an address with its networks: each of these may do it as
// often as [Networks] says. The limiter needs the same memory (2 MiB) for ten keys as
// for ten million: keys have no entries of their own but share cells, one in each of
// several rows, as in a count-min sketch, and a key counts as often as its least used
// cell. So nobody ever does more than the limit, and a key that did less is refused only
// if all of its cells are shared with busy keys. That needs, per interval, far more
// requests that pass than there are columns; the seed is secret, so nobody can aim.
//
// A process counts by itself: n replicas together let n times as much pass. Safe for
// concurrent use.
type Limiter struct {
	interval, burst time.Duration // a burst as the time after which it may be repeated
	began           time.Time
	seed            maphash.Seed

	mu sync.Mutex
	// When, counted from began, a key has all of its burst again (as in GCRA).
	full [limitRows][limitColumns]time.Duration
}

const (
	limitRows    = 4
	limitColumns = 1 << 16 // a row is found by 16 bits of one hash
)

// NewLimiter returns a limiter of burst times at once, refilled once per interval.
// Both must be positive.
func NewLimiter(burst int, interval time.Duration) *Limiter {
	return &Limiter{
		interval: interval, burst: interval * time.Duration(burst), began: time.Now(), seed: maphash.MakeSeed(),
	}
}

// Allow counts one time for the key and returns 0, or returns how long it has to
// wait, and counts nothing.
func (l *Limiter) Allow(key string) time.Duration {
	return l.allow([]Network{{Times: 1}}, key, true)
}

// Wait returns what [Limiter.Allow] would, and counts nothing.
func (l *Limiter) Wait(key string) time.Duration {
	return l.allow([]Network{{Times: 1}}, key, false)
}

// AllowFrom is Allow for an address and all of its networks, each together with the key:
// "" is for whatever the address does.
func (l *Limiter) AllowFrom(a netip.Addr, key string) time.Duration {
	return l.allow(Networks(a), key, true)
}

// WaitFrom returns what [Limiter.AllowFrom] would, and counts nothing.
func (l *Limiter) WaitFrom(a netip.Addr, key string) time.Duration {
	return l.allow(Networks(a), key, false)
}

func (l *Limiter) allow(networks []Network, key string, count bool) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	for _, n := range networks {
		_, full := l.find(n, key, now)
		wait = max(wait, full+l.cost(n)-now-l.burst)
	}
	if wait > 0 || !count {
		return max(wait, 0)
	}
	for _, n := range networks {
		cells, full := l.find(n, key, now)
		raise(cells, full+l.cost(n))
	}
	return 0
}

// Spend counts one time for an address, whether it is within its limit or not. It
// returns how many times the address did it and has not been given back yet: the burst
// at most. If a network of the address did more for its size, the network counts.
func (l *Limiter) Spend(a netip.Addr) (times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	for _, n := range Networks(a) {
		cells, full := l.find(n, "", now)
		full = min(full+l.cost(n), now+l.burst)
		raise(cells, full)
		times = max(times, int((full-now+l.interval-1)/l.interval))
	}
	return times
}

// cost is what doing it once takes of the burst.
func (l *Limiter) cost(n Network) time.Duration { return l.interval / time.Duration(n.Times) }

type limitKey struct {
	network netip.Prefix
	key     string
}

type limitCells [limitRows]*time.Duration

// find returns the cells of a key, and when it has all of its burst again.
func (l *Limiter) find(n Network, key string, now time.Duration) (cells limitCells, full time.Duration) {
	hash := maphash.Comparable(l.seed, limitKey{n.Prefix, key})
	for row := range cells {
		cells[row] = &l.full[row][uint16(hash>>(16*row))]
	}
	full = *cells[0]
	for _, c := range cells[1:] {
		full = min(full, *c)
	}
	return cells, max(full, now)
}

func raise(cells limitCells, full time.Duration) {
	for _, c := range cells {
		*c = max(*c, full)
	}
}
