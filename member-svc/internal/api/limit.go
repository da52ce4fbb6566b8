package api

import (
	"net/http"
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
// An address has so many attempts a minute. So has a username, for all addresses
// together, at once, and a sixth of them in each minute that follows: those who guess
// one password from many addresses have 14,400 guesses a day at the default of 60.
// They can keep that budget used up, and yet not lock the member out: each address
// has three attempts more for each name, one of which comes back every five minutes.
// He needs one of them, from wherever he is; they find no password by three from each
// address that they have.
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
func (t *attempts) from(address string) error { return limited(t.byAddress.Allow(address)) }

// at counts an attempt of an address at a name.
func (t *attempts) at(address, name string) error {
	if t.byName.Allow(name) == 0 {
		return nil
	}
	return limited(t.reserve.Allow(address + " " + name))
}

// limited returns nil if there is nothing to wait for.
func limited(wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	return later(service.NewProblem(http.StatusTooManyRequests, "rate_limited", "too many requests from this address or for this name"), wait)
}

// address is whom a request is counted by.
func address(r *http.Request) string { return service.AddressKey(service.ClientAddress(r)) }

// nameKey is whom attempts at a username are counted by, also at those that nobody can have.
func nameKey(username string) string {
	if key, err := signup.UsernameKey(username); err == nil {
		return key
	}
	return username
}
