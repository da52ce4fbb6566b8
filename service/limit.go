package service

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Limiter lets each key do something so many times at once, and again once per
// interval. It needs the same memory (2 MiB) for ten keys as for ten million: keys
// have no entries of their own but share cells, one in each of several rows, as in a
// count-min sketch, and a key counts as often as its least used cell. So nobody ever
// does more than his limit, and somebody who did less is refused only if all of his
// cells are shared with somebody busy. That needs, per interval, far more requests
// that pass than there are columns; the seed is secret, so nobody can aim.
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
	return &Limiter{interval: interval, burst: interval * time.Duration(burst), began: time.Now(), seed: maphash.MakeSeed()}
}

// Allow counts one time for the key and returns 0, or returns how long it has to
// wait, and counts nothing.
func (l *Limiter) Allow(key string) time.Duration {
	hash := maphash.String(l.seed, key)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	var cells [limitRows]*time.Duration
	for row := range cells {
		cells[row] = &l.full[row][uint16(hash>>(16*row))]
	}
	full := *cells[0]
	for _, c := range cells[1:] {
		full = min(full, *c)
	}
	full = max(full, now) + l.interval
	if wait := full - now - l.burst; wait > 0 {
		return wait
	}
	for _, c := range cells {
		*c = max(*c, full)
	}
	return 0
}

// AddressKey is what limits count an address by: an IPv6 address by its network of
// 64 bits, all of which one client usually has.
func AddressKey(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().String()
	}
	return a.String()
}
