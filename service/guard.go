package service

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Limits on wrong tokens. An address may send guessesPerAddress, all addresses together guessesOfAll. When
// others have used up the latter, an address may still send guessesReserved, so that nobody can lock operators
// out by guessing.
const (
	guessesPerAddress = 10 // refilled by one every 6 s
	guessesOfAll      = 60 // refilled by one every second
	guessesReserved   = 3  // refilled by one every 5 min
)

// guard limits, logs and counts wrong tokens. Safe for concurrent use.
type guard struct {
	log                         *slog.Logger
	refusal                     string // the log message
	refused                     *prometheus.CounterVec
	byAddress, overall, reserve *Limiter

	mu sync.Mutex // held from the limit check until the count, so that concurrent requests cannot bypass it
}

// Watch enables the limiting, logging and counting of wrong tokens, and registers the metrics. kind, a
// lower-case word for the kind of token, is the prefix of the metrics' names. Call Watch before the tokens are
// used.
func (t *Tokens) Watch(kind string, reg prometheus.Registerer, log *slog.Logger) {
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
		t.guard.refused.WithLabelValues(reason) // starts at zero
	}
	reg.MustRegister(t.guard.refused)
	if !t.file {
		return
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: kind + "_token_expiry_timestamp_seconds",
		Help: "Unix time at which the next " + kind + " token expires that was not replaced; 0 if none does.",
	}, t.firstExpiry))
}

// check calls find, unless the address has sent too many wrong tokens. It counts and logs a wrong one.
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
	wait := g.byAddress.waitFrom(address, "")
	if g.overall.Wait("") > 0 {
		wait = max(wait, g.reserve.waitFrom(address, ""))
	}
	return wait
}

// firstExpiry returns the Unix time of the first expiry among the tokens that have not been replaced, or 0 if
// none of them expires.
func (t *Tokens) firstExpiry() float64 {
	last := map[string]time.Time{} // latest expiry by name; a name has two tokens during a replacement
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
