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
	GateOpen     GateState = "open"      // the provider is unavailable: nobody calls it until the next probe
	GateHalfOpen GateState = "half-open" // one call, the probe, is being made
)

// Gate is between all replicas and the provider: a circuit breaker and a rate budget, as stored in the
// database. Its methods are pure; what they return is written only if the row has not changed since it was
// read.
//
//	        failuresToOpen in a row             not_before has come
//	closed ────────────────────────► open ◄───────────────────────► half-open
//	   ▲                                    the probe is not answered   │
//	   └────────────────────────────────────────────────────────────────┘
//	     the provider answers the probe, whatever it says: the ramp begins
//
// A probe whose worker has died is given up when its lease ends.
type Gate struct {
	Version    int64      `db:"version"` // counts changes of State and NotBefore
	State      GateState  `db:"state"`
	Failures   int        `db:"failures"`   // in a row: unanswered calls if closed, otherwise probes
	OpenedAt   *time.Time `db:"opened_at"`  // since when it is not closed
	ClosedAt   time.Time  `db:"closed_at"`  // when the ramp began
	NotBefore  time.Time  `db:"not_before"` // no call and no probe before this
	ProbeToken *string    `db:"probe_token"`
	Permits    float64    `db:"permits"` // what the budget held at FilledAt
	FilledAt   time.Time  `db:"filled_at"`
	Taken      int64      `db:"taken"` // permits ever taken
	Now        time.Time  `db:"now"`   // when the row was read, by the database's clock
	// Why the gate is not closed, by the newest call or probe; nil if it is closed, or if an older version
	// opened it.
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

// because returns the gate with the reason why it is not closed.
func (g Gate) because(f *Failure) Gate {
	class, message := string(f.Class), printable(f.Error())
	g.ErrorClass, g.LastError = &class, &message
	return g
}

const (
	// failuresToOpen is how many calls must fail in a row before that counts as an outage rather than bad luck.
	failuresToOpen = 5
	// After an outage, the rate doubles each second and is back at its full value after this time.
	rampSeconds = 6
	// nominalRate is what an unlimited rate ramps up to.
	nominalRate = 1000
	// burstSeconds is how long the budget accumulates. Each replica may also hold that much: in any second, two
	// replicas make less than 1.1 × the rate.
	burstSeconds = 0.025
	// longestPause bounds how long a provider's Retry-After can stop all calls.
	longestPause = 10 * time.Minute
)

// admit returns how many calls may begin now. If that changes the gate, next must be written together with the
// claim. It may take more permits than the caller needs now, a chunk: the caller keeps the rest for later. If
// no call is admitted, wait is how long to wait before asking again.
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

// believable resets times that are further ahead than they can be: the database's clock was set back, and
// nobody should have to wait until it has caught up.
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

// judge returns the gate after the calls that these results came from, and whether that changes it.
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

// pause obeys a provider that says for how long nobody should call it.
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

// answered reports whether the provider was available and decided something.
func (r Result) answered() bool {
	return r.Failure == nil || r.Failure.Class == ClassRejected || r.Failure.Class == ClassThrottled ||
		r.Failure.Class == ClassPoison
}

// nobodyThere reports whether the result indicates an outage. A call without an answer does so only on a
// storage's first attempt: one storage on which the provider always hangs must not stop all others.
func (r Result) nobodyThere() bool {
	return r.Failure != nil &&
		(r.Failure.Class == ClassOutage || errors.Is(r.Failure, errNoAnswer) && r.Was.Attempts == 0)
}
