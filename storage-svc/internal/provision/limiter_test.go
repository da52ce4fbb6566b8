package provision

import (
	"testing"
	"time"
)

// Permits come in chunks and are used without writing the breaker; a change of its state makes them invalid.
func TestPermitsInHand(t *testing.T) {
	p := Policy{Rate: 1000}
	admit := func(ts *limiter) Claim {
		c, wait, err := ts.admit(p, 16, time.Minute)
		if err != nil || wait > 0 {
			t.Fatal(wait, err)
		}
		return c
	}
	var ts limiter
	if _, wait, _ := ts.admit(p, 16, time.Minute); wait == 0 {
		t.Error("admitted through a breaker that was never seen")
	}
	ts.update(Breaker{Version: 1, State: BreakerClosed, Now: time.Now()})
	c := admit(&ts)
	if c.N != 16 || c.Next == nil || c.Next.Taken != 25 {
		t.Fatalf("first claim %+v, want a chunk of 25", c)
	}
	if !ts.claimed(c, 16, *c.Next) {
		t.Error("said that there is no more")
	}
	c = admit(&ts)
	if c.N != 9 || c.Next != nil {
		t.Errorf("second claim %+v, want the rest of the chunk", c)
	}
	if ts.claimed(c, 4, c.Was) {
		t.Error("said that there is more")
	}
	ts.update(Breaker{Version: 3, State: BreakerClosed, Now: time.Now(), FilledAt: time.Now()})
	if _, wait, _ := ts.admit(p, 16, time.Minute); wait == 0 {
		t.Error("permits outlived an outage")
	}
}

// A failover to a server whose clock is an hour behind does not stop anybody.
func TestClockSetBack(t *testing.T) {
	p, now, token := Policy{Rate: 1000}, time.Now(), "lease"
	ahead := now.Add(time.Hour)
	for name, g := range map[string]Breaker{
		"closed":    {State: BreakerClosed, ClosedAt: ahead, FilledAt: ahead},
		"throttled": {State: BreakerClosed, NotBefore: ahead},
		"open":      {State: BreakerOpen, OpenedAt: &ahead, NotBefore: ahead},
		"half-open": {State: BreakerHalfOpen, OpenedAt: &ahead, NotBefore: ahead, ProbeToken: &token},
	} {
		g.Now = now
		calls, next, wait := p.admit(g, "another", time.Minute)
		want := map[bool]int{true: 25, false: 1}[g.State == BreakerClosed]
		if calls != want || next == nil || wait != 0 {
			t.Errorf("%s: %d calls, wait %v", name, calls, wait)
		}
	}
}
