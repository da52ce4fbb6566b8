package welcome

import (
	"math/rand/v2"
	"time"
)

const (
	brokenWait = time.Minute      // after a conversation that the letter itself may have ended
	doubtWait  = 15 * time.Minute // at least, before another copy of a letter that may have arrived
	firstRetry = time.Minute      // at least; servers that greylist want minutes
	quietFirst = 5 * time.Second  // a server that refuses to talk to us is asked again after this, doubling
	quietShort = time.Minute      // at most, if the refusal may pass
	quietLong  = 5 * time.Minute  // at most, if somebody has to change a setting
)

// retryAfter returns how long a letter waits after its nth attempt. Waits double from a minute on, as RFC 5321,
// section 4.5.4.1, advises, and stay below an eighth of the letter's life. With few attempts allowed the first wait is
// longer, so that they are not used up at once.
func (m *Mailer) retryAfter(n int) time.Duration {
	wait := max(firstRetry, m.cfg.MaxAge>>m.cfg.MaxAttempts)
	for range min(n-1, 20) {
		wait *= 2
	}
	return spread(min(wait, m.cfg.MaxAge/8))
}

// spread returns d, give or take a quarter, so that letters which failed together do not come back together.
func spread(d time.Duration) time.Duration {
	if d < 4 {
		return d
	}
	return d - d/4 + rand.N(d/2)
}

// keepQuiet leaves a server alone for a while that refused to talk to us. One that cannot be reached at all is left to
// the loop's back-off, which comes back soon after the server does.
func (m *Mailer) keepQuiet(why *failure) {
	if why.stage == stageConnect {
		return
	}
	longest := quietShort
	if why.setting() {
		longest = quietLong
	}
	m.quiet = time.Now().Add(spread(min(quietFirst<<min(m.refusals, 10), longest)))
	m.refusals++
}
