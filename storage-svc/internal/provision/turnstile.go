package provision

import (
	"fmt"
	"sync"
	"time"

	"github.com/gofrs/uuid/v5"
)

// turnstile is a worker's side of the [Gate]: the gate as last read, and the permits in hand. Permits come in a
// chunk, so that not every claim writes the gate's row. Safe for concurrent use.
type turnstile struct {
	mu     sync.Mutex
	gate   Gate
	seen   time.Time // local time of the read; only differences are used
	inHand int       // permits; never more than a chunk
}

// now returns the gate as last read, with its time moved on to this moment.
func (t *turnstile) now() Gate {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.aged()
}

func (t *turnstile) aged() Gate {
	g := t.gate
	g.Now = g.Now.Add(time.Since(t.seen))
	return g
}

// saw stores the gate that was read. Permits do not survive a change of its version.
func (t *turnstile) saw(g Gate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.Version != t.gate.Version {
		t.inHand = 0
	}
	t.gate, t.seen = g, time.Now()
}

// admit prepares a claim of up to n storages, or returns how long to wait before reading the gate again.
func (t *turnstile) admit(p Policy, n int, lease time.Duration) (c Claim, wait time.Duration, err error) {
	token, err := uuid.NewV4()
	if err != nil {
		return c, 0, fmt.Errorf("lease token: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c = Claim{Token: token.String(), Lease: lease, Was: t.aged()}
	calls := t.inHand
	switch {
	case t.gate.Version == 0: // never read
		wait = time.Nanosecond
	case calls == 0:
		calls, c.Next, wait = p.admit(c.Was, c.Token, lease)
	}
	c.N = min(n, calls)
	return c, wait, nil
}

// claimed stores the outcome of a claim: n storages, and the gate as it is now. It reports whether more
// storages may be due.
func (t *turnstile) claimed(c Claim, n int, g Gate) (more bool) {
	t.saw(g)
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == 0 { // nothing is due, unless the gate has changed
		return g.Version != c.Was.Version || c.Next != nil && g.Taken != c.Was.Taken
	}
	if c.Next != nil {
		t.inHand = int(c.Next.Taken - c.Was.Taken)
	}
	t.inHand = max(0, t.inHand-n)
	return n == c.N
}
