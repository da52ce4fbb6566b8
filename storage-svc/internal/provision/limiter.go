package provision

import (
	"fmt"
	"sync"
	"time"

	"github.com/gofrs/uuid/v5"
)

// limiter is a worker's side of the [Breaker]: the breaker as last read, and the permits in hand. Permits come in a
// chunk, so that not every claim writes the breaker's row. Safe for concurrent use.
type limiter struct {
	mu      sync.Mutex
	breaker Breaker
	readAt  time.Time // local time of the read; only differences are used
	permits int       // in hand; never more than a chunk
}

// now returns the breaker as last read, with its time moved on to this moment.
func (l *limiter) now() Breaker {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.aged()
}

func (l *limiter) aged() Breaker {
	b := l.breaker
	b.Now = b.Now.Add(time.Since(l.readAt))
	return b
}

// update stores the breaker that was read. Permits do not survive a change of its version.
func (l *limiter) update(b Breaker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.Version != l.breaker.Version {
		l.permits = 0
	}
	l.breaker, l.readAt = b, time.Now()
}

// admit prepares a claim of up to n storages, or returns how long to wait before reading the breaker again.
func (l *limiter) admit(p Policy, n int, lease time.Duration) (c Claim, wait time.Duration, err error) {
	token, err := uuid.NewV4()
	if err != nil {
		return c, 0, fmt.Errorf("lease token: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c = Claim{Token: token.String(), Lease: lease, Was: l.aged()}
	calls := l.permits
	switch {
	case l.breaker.Version == 0: // never read
		wait = time.Nanosecond
	case calls == 0:
		calls, c.Next, wait = p.admit(c.Was, c.Token, lease)
	}
	c.N = min(n, calls)
	return c, wait, nil
}

// claimed stores the outcome of a claim: n storages, and the breaker as it is now. It reports whether more
// storages may be due.
func (l *limiter) claimed(c Claim, n int, b Breaker) (more bool) {
	l.update(b)
	l.mu.Lock()
	defer l.mu.Unlock()
	if n == 0 { // nothing is due, unless the breaker has changed
		return b.Version != c.Was.Version || c.Next != nil && b.Taken != c.Was.Taken
	}
	if c.Next != nil {
		l.permits = int(c.Next.Taken - c.Was.Taken)
	}
	l.permits = max(0, l.permits-n)
	return n == c.N
}
