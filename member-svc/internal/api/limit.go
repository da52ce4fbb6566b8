package api

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/service"
)

// Limits are what the public listener grants. Each process counts for itself.
type Limits struct {
	Signups   int            // that an address may try per minute, see attempts
	Passwords int            // likewise
	Streams   int            // that may be open, a quarter of them for one address
	Proxies   []netip.Prefix // peers whose X-Forwarded-For is believed
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

// clients finds out whose request it is: the last address in X-Forwarded-For, from the
// right, that is no proxy's, if the peer is a proxy. Other peers may write what they like.
func clients(proxies []netip.Prefix) func(http.Handler) http.Handler {
	if len(proxies) == 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	trusted := make([]string, len(proxies))
	for i, p := range proxies {
		trusted[i] = p.String()
	}
	return middleware.ClientIPFromXFF(trusted...)
}

// address is whom a request is counted by: its client, or the peer if the proxies do
// not tell.
func address(r *http.Request) string {
	client := middleware.GetClientIPAddr(r.Context())
	if !client.IsValid() {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		client = peer.Addr()
	}
	return service.AddressKey(client)
}

// nameKey is whom attempts at a username are counted by, also at those that nobody can have.
func nameKey(username string) string {
	if key, err := signup.UsernameKey(username); err == nil {
		return key
	}
	return username
}
