package api

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// Limits are the limits of the public listener. Each process counts on its own.
type Limits struct {
	Signups   int // attempts of one address per minute, see attempts
	Passwords int // the same
	Streams   int // open at a time, see service.ConnLimiter
}

// attempts limits attempts by addresses and for usernames, whether or not the username exists: the limits apply
// before the database is asked.
//
// Each address gets a number of attempts per minute, and each of its networks a multiple of it, see
// [service.Networks]. Each username gets a burst of the same number, shared by all addresses and refilled at a
// sixth of it per minute. At the default of 60, guessing one password from many addresses is limited to 14,400
// guesses a day. Guessers can use up that budget but cannot lock the member out: each address has three more
// attempts for each username, one of which comes back every five minutes, and its networks have proportionally
// more. The member needs one of them; three attempts from each address do not find a password.
type attempts struct {
	byAddress, byName, reserve *service.Limiter
}

const (
	reserved      = 3
	reserveRefill = 5 * time.Minute
)

func newAttempts(perMinute int) *attempts {
	interval := time.Minute / time.Duration(perMinute)
	return &attempts{
		byAddress: service.NewLimiter(perMinute, interval),
		byName:    service.NewLimiter(perMinute, 6*interval),
		reserve:   service.NewLimiter(reserved, reserveRefill),
	}
}

// from counts an attempt by an address.
func (t *attempts) from(a netip.Addr) error { return limited(t.byAddress.AllowFrom(a, "")) }

// at counts an attempt by an address for a name.
func (t *attempts) at(a netip.Addr, name string) error {
	if t.byName.Allow(name) == 0 {
		return nil
	}
	return limited(t.reserve.AllowFrom(a, name))
}

// limited returns nil if there is no wait.
func limited(wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	const detail = "too many requests from this address or its network or for this name"
	return later(service.NewProblem(http.StatusTooManyRequests, "rate_limited", detail), wait)
}
