package api

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/service"
)

// Limits are what the public listener grants. Each process counts for itself.
type Limits struct {
	Signups   int // that an address may try per minute, see attempts
	Passwords int // likewise
	Streams   int // that may be open, see service.Places
}

// attempts limits what is tried by addresses and for usernames, whether these exist
// or not: the limits apply before the database is asked.
//
// Each address gets a number of attempts per minute, and each of its networks as many
// times that as [service.Networks] says. Each username gets a burst of the same number,
// shared by all addresses and refilled at a sixth of it per minute: guessing one password
// from many addresses is limited to 14,400 guesses a day at the default of 60. Guessers
// can keep that budget used up, but not lock the member out: each address has three more
// attempts for each name, one of which comes back every five minutes, and its networks
// have more in the same proportion. The member needs one of them; guessers find no
// password by three from each address.
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

// from counts an attempt of an address.
func (t *attempts) from(a netip.Addr) error { return limited(t.byAddress.AllowFrom(a, "")) }

// at counts an attempt of an address at a name.
func (t *attempts) at(a netip.Addr, name string) error {
	if t.byName.Allow(name) == 0 {
		return nil
	}
	return limited(t.reserve.AllowFrom(a, name))
}

// limited returns nil if there is nothing to wait for.
func limited(wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	const detail = "too many requests from this address or its network or for this name"
	return later(service.NewProblem(http.StatusTooManyRequests, "rate_limited", detail), wait)
}

// nameKey is whom attempts at a username are counted by, also at those that nobody can have.
func nameKey(username string) string {
	if key, err := signup.UsernameKey(username); err == nil {
		return key
	}
	return username
}
