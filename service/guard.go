package service

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Wrong tokens in a row, before an address waits; of all addresses together; and of an
// address when the others have used those up: nobody can keep operators out by guessing.
const (
	guessesPerAddress = 10 // again one each 6 s
	guessesOfAll      = 60 // again one each second
	guessesReserved   = 3  // again one each 5 min
)

// guard limits, logs and counts wrong tokens. Safe for concurrent use.
type guard struct {
	log                         *slog.Logger
	refusal                     string // the message in the log
	refused                     *prometheus.CounterVec
	byAddress, overall, reserve *Limiter

	mu sync.Mutex // from asking the limiters to counting: requests at once are no way around them
}

// Watch has wrong tokens limited, logged and counted, and metrics registered. The kind of the
// tokens, a word in lower case, begins the names of the metrics. Call it before the tokens are used.
func (t *Tokens) Watch(kind string, reg prometheus.Registerer, log *slog.Logger) error {
	reasons := []string{reasonUnknown, reasonLimited}
	if t.file {
		reasons = []string{reasonUnknown, reasonShort, reasonTypo, reasonExpired, reasonLimited}
	}
	t.guard = &guard{
		log: log, refusal: kind + " token refused",
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: kind + "_tokens_refused_total",
			Help: "Tokens refused by reason: " + strings.Join(reasons, ", ") + ".",
		}, []string{"reason"}),
		byAddress: NewLimiter(guessesPerAddress, time.Minute/guessesPerAddress),
		overall:   NewLimiter(guessesOfAll, time.Minute/guessesOfAll),
		reserve:   NewLimiter(guessesReserved, 5*time.Minute),
	}
	for _, reason := range reasons {
		t.guard.refused.WithLabelValues(reason) // begins at zero
	}
	if !t.file {
		return reg.Register(t.guard.refused)
	}
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: kind + "_token_expiry_timestamp_seconds",
		Help: "When the first of the " + kind + " tokens expires that has not been replaced; 0 if none does.",
	}, t.firstExpiry)
	return errors.Join(reg.Register(t.guard.refused), reg.Register(expiry))
}

// check asks for the token unless there were too many wrong ones.
func (g *guard) check(r *http.Request, find func() (token, string)) (token, *wire.Problem) {
	g.mu.Lock()
	defer g.mu.Unlock()
	address := ClientAddress(r)
	if wait := g.wait(address); wait > 0 {
		g.refused.WithLabelValues(reasonLimited).Inc()
		p := NewProblem(http.StatusTooManyRequests, "rate_limited", "too many wrong tokens")
		p.RetryAfter = wait
		return token{}, p
	}
	who, reason := find()
	if reason == "" {
		return who, nil
	}
	g.byAddress.AllowFrom(address, "")
	if g.overall.Allow("") > 0 {
		g.reserve.AllowFrom(address, "")
	}
	g.refused.WithLabelValues(reason).Inc()
	g.log.WarnContext(r.Context(), g.refusal, "reason", reason,
		"address", address, "waits", g.wait(address) > 0)
	return token{}, errNoToken()
}

// wait returns how long an address has to wait before it may try a token.
func (g *guard) wait(address netip.Addr) time.Duration {
	wait := g.byAddress.WaitFrom(address, "")
	if g.overall.Wait("") > 0 {
		wait = max(wait, g.reserve.WaitFrom(address, ""))
	}
	return wait
}

// firstExpiry returns when the first token expires that has not been replaced, 0 if none does.
func (t *Tokens) firstExpiry() float64 {
	last := map[string]time.Time{} // of each name, which has two tokens while one is replaced
	for _, t := range t.list() {
		known, seen := last[t.name]
		if !seen || t.expires.IsZero() || !known.IsZero() && t.expires.After(known) {
			last[t.name] = t.expires
		}
	}
	var first float64
	for _, at := range last {
		if unix := float64(at.Unix()); !at.IsZero() && (first == 0 || unix < first) {
			first = unix
		}
	}
	return first
}
