package service

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Limiter lets each key act a burst of times at once, and then once per interval. A key is a text, or an
// address with its networks; for each of these the limit is as high as [Networks] says. The limiter needs the
// same memory (2 MiB) for ten keys as for ten million: keys have no entries of their own but share cells, one
// in each of several rows, as in a count-min sketch, and the least used cell of a key is its count. So no key
// ever exceeds its limit, and a key below its limit is refused only if all of its cells are shared with busy
// keys. That takes, per interval, far more accepted requests than there are columns. The seed of the hash is
// secret, so nobody can aim at a key's cells.
//
// Each process counts separately: n replicas together allow n times as much. Safe for concurrent use.
type Limiter struct {
	interval, burst time.Duration // burst: the time in which a used-up burst is refilled
	began           time.Time
	seed            maphash.Seed

	mu sync.Mutex
	// Time since began at which a key has its whole burst again (as in GCRA).
	full [limitRows][limitColumns]time.Duration
}

const (
	limitRows    = 4
	limitColumns = 1 << 16 // each row uses 16 bits of one hash
)

// NewLimiter returns a limiter that allows burst times at once, refilled by one per interval. Both must be
// positive.
func NewLimiter(burst int, interval time.Duration) *Limiter {
	return &Limiter{
		interval: interval, burst: interval * time.Duration(burst), began: time.Now(), seed: maphash.MakeSeed(),
	}
}

// Allow counts one use of the key and returns 0. If the key is over its limit, it counts nothing and returns
// how long the key has to wait.
func (l *Limiter) Allow(key string) time.Duration {
	return l.allow([]Network{{Times: 1}}, key, true)
}

// Wait returns what [Limiter.Allow] would, and counts nothing.
func (l *Limiter) Wait(key string) time.Duration {
	return l.allow([]Network{{Times: 1}}, key, false)
}

// AllowFrom is Allow for an address and all of its networks, each combined with the key. The key "" stands for
// everything that the address does.
func (l *Limiter) AllowFrom(a netip.Addr, key string) time.Duration {
	return l.allow(Networks(a), key, true)
}

// waitFrom returns what [Limiter.AllowFrom] would, and counts nothing.
func (l *Limiter) waitFrom(a netip.Addr, key string) time.Duration {
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

// Spend counts one use for an address, even if that is over its limit. It returns how many uses have not been
// refilled yet, at most the burst. If one of the address's networks has used more of its own limit, the
// network's number counts.
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

// cost returns how much of the burst one use takes.
func (l *Limiter) cost(n Network) time.Duration { return l.interval / time.Duration(n.Times) }

type limitKey struct {
	network netip.Prefix
	key     string
}

type limitCells [limitRows]*time.Duration

// find returns the cells of a key, and the time at which it has its whole burst again.
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
