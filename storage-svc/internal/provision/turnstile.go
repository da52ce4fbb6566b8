package provision

import (
	"fmt"
	"sync"
	"time"

	"github.com/gofrs/uuid/v5"
)

// turnstile is a worker's side of the [Gate]: what it was when last seen, and
// the permits in hand, which came in a chunk so that the gate's row is not
// written with every claim. It is safe for concurrent use.
type turnstile struct {
	mu     sync.Mutex
	gate   Gate
	seen   time.Time // by the local clock, of which only differences are used
	inHand int       // never more than a chunk
}

// now returns the gate as last seen, as it would be at this moment.
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

// saw notes what the gate is. Permits do not survive a change of its state.
func (t *turnstile) saw(g Gate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.Version != t.gate.Version {
		t.inHand = 0
	}
	t.gate, t.seen = g, time.Now()
}

// admit prepares a claim of up to n storages, or says how long to wait before
// looking at the gate again.
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
	case t.gate.Version == 0: // never seen
		wait = time.Nanosecond
	case calls == 0:
		calls, c.Next, wait = p.admit(c.Was, c.Token, lease)
	}
	c.N = min(n, calls)
	return c, wait, nil
}

// claimed notes what came of a claim: n storages and the gate as it is now. It
// reports whether there may be more of them.
func (t *turnstile) claimed(c Claim, n int, g Gate) (more bool) {
	t.saw(g)
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == 0 { // nothing is due, unless the gate is another one
		return g.Version != c.Was.Version || c.Next != nil && g.Taken != c.Was.Taken
	}
	if c.Next != nil {
		t.inHand = int(c.Next.Taken - c.Was.Taken)
	}
	t.inHand = max(0, t.inHand-n)
	return n == c.N
}
