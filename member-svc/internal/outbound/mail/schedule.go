package mail

import (
	"math/rand/v2"
	"time"
)

const (
	brokenWait = time.Minute      // after a conversation that the mail itself may have broken
	doubtWait  = 15 * time.Minute // at least this long before another copy of a mail that may have arrived
	firstRetry = time.Minute      // at least; servers that greylist expect minutes
	quietFirst = 5 * time.Second  // first pause after a server refused to talk to us; doubles
	quietShort = time.Minute      // longest pause if the refusal may pass
	quietLong  = 5 * time.Minute  // longest pause if someone has to change a setting
)

// retryAfter returns how long a mail waits after its nth attempt. Waits start at a minute and double, as RFC
// 5321, section 4.5.4.1, advises; they stay below an eighth of MaxAge, give or take a quarter. If few attempts
// are allowed, the first wait is longer, so that they are not used up at once.
func (m *Mailer) retryAfter(n int) time.Duration {
	wait := max(firstRetry, m.cfg.MaxAge>>m.cfg.MaxAttempts)
	for range min(n-1, 20) {
		wait *= 2
	}
	return spread(min(wait, m.cfg.MaxAge/8))
}

// spread returns d, give or take a quarter, so that mails that failed together are not retried together.
func spread(d time.Duration) time.Duration {
	if d < 4 {
		return d
	}
	return d - d/4 + rand.N(d/2)
}

// keepQuiet starts a pause after a server refused to talk to us. A server that cannot be reached at all gets no
// pause: the loop's back-off reaches it soon after it returns.
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
