package provision

import (
	"errors"
	"math"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/service"
)

// BreakerState is the state of the circuit breaker.
type BreakerState string

// The states.
const (
	BreakerClosed   BreakerState = "closed"    // calls are made, at the budget's rate
	BreakerOpen     BreakerState = "open"      // the provider is unavailable: nobody calls it until the next probe
	BreakerHalfOpen BreakerState = "half-open" // one call, the probe, is being made
)

// Breaker is between all replicas and the provider: a circuit breaker and a rate budget, as stored in the
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
type Breaker struct {
	Version    int64        `db:"version"` // counts changes of State and NotBefore
	State      BreakerState `db:"state"`
	Failures   int          `db:"failures"`   // in a row: unanswered calls if closed, otherwise probes
	OpenedAt   *time.Time   `db:"opened_at"`  // since when it is not closed
	ClosedAt   time.Time    `db:"closed_at"`  // when the ramp began
	NotBefore  time.Time    `db:"not_before"` // no call and no probe before this
	ProbeToken *string      `db:"probe_token"`
	Permits    float64      `db:"permits"` // what the budget held at FilledAt
	FilledAt   time.Time    `db:"filled_at"`
	Taken      int64        `db:"taken"` // permits ever taken
	Now        time.Time    `db:"now"`   // when the row was read, by the database's clock
	// Why the breaker is not closed, by the newest call or probe; nil if it is closed, or if an older version
	// opened it.
	ErrorClass *string `db:"error_class"`
	LastError  *string `db:"error"`
}

// Reason says why the breaker is not closed, or nil.
func (b Breaker) Reason() *contract.StorageError {
	if b.State == BreakerClosed {
		return nil
	}
	return storedError(b.ErrorClass, b.LastError)
}

// withReason returns the breaker with the reason why it is not closed.
func (b Breaker) withReason(f *Failure) Breaker {
	class, message := string(f.Class), service.CleanText(f.Error())
	b.ErrorClass, b.LastError = &class, &message
	return b
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

// admit returns how many calls may begin now. If that changes the breaker, next must be written together with the
// claim. It may take more permits than the caller needs now, a chunk: the caller keeps the rest for later. If
// no call is admitted, wait is how long to wait before asking again.
func (p Policy) admit(b Breaker, token string, lease time.Duration) (calls int, next *Breaker, wait time.Duration) {
	b = b.withoutFutureTimes(lease)
	if wait := b.NotBefore.Sub(b.Now); wait > 0 {
		return 0, nil, wait
	}
	if b.State != BreakerClosed {
		b.State, b.ProbeToken, b.NotBefore = BreakerHalfOpen, &token, b.Now.Add(lease)
		b.Version++
		return 1, &b, 0
	}
	rate := p.rate(b)
	if rate == 0 {
		return math.MaxInt32, nil, 0
	}
	burst := max(1, rate*burstSeconds)
	permits := min(burst, b.Permits+rate*max(0, b.Now.Sub(b.FilledAt).Seconds()))
	if permits < 1 {
		return 0, nil, time.Duration((burst - permits) / rate * float64(time.Second))
	}
	calls = int(permits)
	b.Permits, b.FilledAt, b.Taken = permits-float64(calls), b.Now, b.Taken+int64(calls)
	return calls, &b, 0
}

// withoutFutureTimes resets times that are further ahead than they can be: the database's clock was set back, and
// nobody should have to wait until it has caught up.
func (b Breaker) withoutFutureTimes(lease time.Duration) Breaker {
	for t, most := range map[*time.Time]time.Duration{&b.NotBefore: max(lease, longestPause), &b.ClosedAt: time.Second,
		&b.FilledAt: time.Second} {
		if t.Sub(b.Now) > most {
			*t = time.Time{}
		}
	}
	return b
}

// rate returns how many calls per second a closed breaker admits, 0 for any number.
func (p Policy) rate(b Breaker) float64 {
	missing := rampSeconds - b.Now.Sub(b.ClosedAt).Seconds()
	if missing <= 0 {
		return p.Rate
	}
	full := p.Rate
	if full == 0 {
		full = nominalRate
	}
	return max(full*math.Exp2(-missing), min(full, 1))
}

// record returns the breaker after the calls that these results came from, and whether that changes it.
func (p Policy) record(b Breaker, results []Result) (next Breaker, changed bool) {
	next = b
	for _, r := range results {
		switch {
		case next.State == BreakerClosed:
			next = p.recordCall(next, r)
		case next.ProbeToken != nil && r.Was.LeaseToken != nil && *next.ProbeToken == *r.Was.LeaseToken:
			next = p.recordProbe(next, r)
		}
	}
	if next.State != b.State || !next.NotBefore.Equal(b.NotBefore) {
		next.Version++
		return next, true
	}
	return next, next.Failures != b.Failures
}

func (p Policy) recordCall(b Breaker, r Result) Breaker {
	switch {
	case r.answered():
		b.Failures = 0
		return b.pause(r.Failure)
	case r.suggestsOutage():
		b.Failures++
	}
	if b.Failures >= failuresToOpen {
		now := b.Now
		b.State, b.OpenedAt, b.Failures, b.NotBefore = BreakerOpen, &now, 0, b.Now.Add(p.probeDelay(0))
		b = b.withReason(r.Failure)
	}
	return b
}

func (p Policy) recordProbe(b Breaker, r Result) Breaker {
	b.ProbeToken = nil
	if !r.answered() {
		b.State, b.Failures = BreakerOpen, b.Failures+1
		b.NotBefore = b.Now.Add(p.probeDelay(b.Failures))
		return b.withReason(r.Failure)
	}
	b.State, b.OpenedAt, b.Failures, b.NotBefore = BreakerClosed, nil, 0, b.Now
	b.ClosedAt, b.ErrorClass, b.LastError = b.Now, nil, nil
	return b.pause(r.Failure)
}

// pause obeys a provider that says for how long nobody should call it.
func (b Breaker) pause(f *Failure) Breaker {
	if f == nil || f.Class != ClassThrottled || f.RetryAfter <= 0 {
		return b
	}
	if until := b.Now.Add(min(f.RetryAfter, longestPause)); until.After(b.NotBefore) {
		b.NotBefore = until
	}
	return b
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

// suggestsOutage reports whether the result indicates an outage. A call without an answer does so only on a
// storage's first attempt: one storage on which the provider always hangs must not stop all others.
func (r Result) suggestsOutage() bool {
	return r.Failure != nil &&
		(r.Failure.Class == ClassOutage || errors.Is(r.Failure, errNoAnswer) && r.Was.Attempts == 0)
}
