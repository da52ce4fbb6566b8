package provision

import (
	"errors"
	"math"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// GateState is the state of the circuit breaker.
type GateState string

// The states.
const (
	GateClosed   GateState = "closed"    // calls are made, at the budget's rate
	GateOpen     GateState = "open"      // the provider is away: nobody calls it until the next probe
	GateHalfOpen GateState = "half-open" // one call, the probe, is being made
)

// Gate stands between all replicas and the provider: a circuit breaker and a
// rate budget, as they are in the database. Its methods are pure; what they
// return is written only if the row is still the one they were asked about.
//
//	        failuresToOpen in a row             not_before has come
//	closed ────────────────────────► open ◄───────────────────────► half-open
//	   ▲                                    the probe finds nobody      │
//	   └────────────────────────────────────────────────────────────────┘
//	     the provider answers the probe, whatever it says: the ramp begins
//
// A probe whose worker died is given up when its lease ends.
type Gate struct {
	Version    int64      `db:"version"` // counts changes of State and NotBefore
	State      GateState  `db:"state"`
	Failures   int        `db:"failures"`   // in a row: calls that found nobody if closed, else probes
	OpenedAt   *time.Time `db:"opened_at"`  // since when it is not closed
	ClosedAt   time.Time  `db:"closed_at"`  // where the ramp begins
	NotBefore  time.Time  `db:"not_before"` // no call, or probe, before this
	ProbeToken *string    `db:"probe_token"`
	Permits    float64    `db:"permits"` // what the budget held at FilledAt
	FilledAt   time.Time  `db:"filled_at"`
	Taken      int64      `db:"taken"` // permits ever taken
	Now        time.Time  `db:"now"`   // by the database's clock
	// Why it is not closed, as the newest call or probe told; nil: it is closed, or an
	// older version opened it.
	ErrorClass *string `db:"error_class"`
	LastError  *string `db:"error"`
}

// Reason says why the gate is not closed, or nil.
func (g Gate) Reason() *contract.StorageError {
	if g.State == GateClosed {
		return nil
	}
	return told(g.ErrorClass, g.LastError)
}

// because notes why the gate is not closed.
func (g Gate) because(f *Failure) Gate {
	class, message := string(f.Class), printable(f.Error())
	g.ErrorClass, g.LastError = &class, &message
	return g
}

const (
	// failuresToOpen tells an outage from a call that met bad luck.
	failuresToOpen = 5
	// After an outage the rate doubles each second and is whole after this time.
	rampSeconds = 6
	// nominalRate is what an unlimited rate ramps up to.
	nominalRate = 1000
	// burstSeconds is how long the budget saves up. Each replica may have as much
	// in hand: in any second, two replicas make less than 1.1 × the rate.
	burstSeconds = 0.025
	// longestPause bounds what a provider's Retry-After can do to everybody.
	longestPause = 10 * time.Minute
)

// admit says how many calls may begin now. If the gate changes by that, next is
// what must be written together with the claim. It may take more permits than
// the caller wants, a chunk: the rest is his to use later. If no call is
// admitted, wait says when to ask again.
func (p Policy) admit(g Gate, token string, lease time.Duration) (calls int, next *Gate, wait time.Duration) {
	g = g.believable(lease)
	if wait := g.NotBefore.Sub(g.Now); wait > 0 {
		return 0, nil, wait
	}
	if g.State != GateClosed {
		g.State, g.ProbeToken, g.NotBefore = GateHalfOpen, &token, g.Now.Add(lease)
		g.Version++
		return 1, &g, 0
	}
	rate := p.rate(g)
	if rate == 0 {
		return math.MaxInt32, nil, 0
	}
	burst := max(1, rate*burstSeconds)
	permits := min(burst, g.Permits+rate*max(0, g.Now.Sub(g.FilledAt).Seconds()))
	if permits < 1 {
		return 0, nil, time.Duration((burst - permits) / rate * float64(time.Second))
	}
	calls = int(permits)
	g.Permits, g.FilledAt, g.Taken = permits-float64(calls), g.Now, g.Taken+int64(calls)
	return calls, &g, 0
}

// believable forgets times that lie further ahead than they can: the database's
// clock was set back, and nobody should have to wait until it has caught up.
func (g Gate) believable(lease time.Duration) Gate {
	for t, most := range map[*time.Time]time.Duration{&g.NotBefore: max(lease, longestPause), &g.ClosedAt: time.Second,
		&g.FilledAt: time.Second} {
		if t.Sub(g.Now) > most {
			*t = time.Time{}
		}
	}
	return g
}

// rate returns how many calls per second a closed gate admits, 0 for any number.
func (p Policy) rate(g Gate) float64 {
	missing := rampSeconds - g.Now.Sub(g.ClosedAt).Seconds()
	if missing <= 0 {
		return p.Rate
	}
	full := p.Rate
	if full == 0 {
		full = nominalRate
	}
	return max(full*math.Exp2(-missing), min(full, 1))
}

// judge returns the gate after the calls that these results came from, and
// whether it is another one.
func (p Policy) judge(g Gate, results []Result) (next Gate, changed bool) {
	next = g
	for _, r := range results {
		switch {
		case next.State == GateClosed:
			next = p.judgeCall(next, r)
		case next.ProbeToken != nil && r.Was.LeaseToken != nil && *next.ProbeToken == *r.Was.LeaseToken:
			next = p.judgeProbe(next, r)
		}
	}
	if next.State != g.State || !next.NotBefore.Equal(g.NotBefore) {
		next.Version++
		return next, true
	}
	return next, next.Failures != g.Failures
}

func (p Policy) judgeCall(g Gate, r Result) Gate {
	switch {
	case r.answered():
		g.Failures = 0
		return g.pause(r.Failure)
	case r.nobodyThere():
		g.Failures++
	}
	if g.Failures >= failuresToOpen {
		now := g.Now
		g.State, g.OpenedAt, g.Failures, g.NotBefore = GateOpen, &now, 0, g.Now.Add(p.probeDelay(0))
		g = g.because(r.Failure)
	}
	return g
}

func (p Policy) judgeProbe(g Gate, r Result) Gate {
	g.ProbeToken = nil
	if !r.answered() {
		g.State, g.Failures = GateOpen, g.Failures+1
		g.NotBefore = g.Now.Add(p.probeDelay(g.Failures))
		return g.because(r.Failure)
	}
	g.State, g.OpenedAt, g.Failures, g.NotBefore = GateClosed, nil, 0, g.Now
	g.ClosedAt, g.ErrorClass, g.LastError = g.Now, nil, nil
	return g.pause(r.Failure)
}

// pause heeds a provider that says how long nobody should call it.
func (g Gate) pause(f *Failure) Gate {
	if f == nil || f.Class != ClassThrottled || f.RetryAfter <= 0 {
		return g
	}
	if until := g.Now.Add(min(f.RetryAfter, longestPause)); until.After(g.NotBefore) {
		g.NotBefore = until
	}
	return g
}

// probeDelay needs no jitter: there is one probe at a time.
func (p Policy) probeDelay(failures int) time.Duration {
	if failures < 32 && p.Base<<failures > 0 {
		return min(p.Base<<failures, p.OutageCap)
	}
	return p.OutageCap
}

// answered reports whether the provider was there and decided something.
func (r Result) answered() bool {
	return r.Failure == nil || r.Failure.Class == ClassRejected || r.Failure.Class == ClassThrottled ||
		r.Failure.Class == ClassPoison
}

// nobodyThere reports whether the result speaks for an outage. A call without
// an answer does so once per storage: one on which the provider always hangs
// must not stop all others.
func (r Result) nobodyThere() bool {
	return r.Failure != nil &&
		(r.Failure.Class == ClassOutage || errors.Is(r.Failure, errNoAnswer) && r.Was.Attempts == 0)
}
