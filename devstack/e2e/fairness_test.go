package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

const (
	attackTime  = 12 * time.Second
	honestEvery = 125 * time.Millisecond
	passphrase  = "a long enough password"
)

// attempt is a request from a client address, which a trusted proxy reports.
type attempt struct {
	signUp                  bool // otherwise sign in
	name, password, address string
}

// from sends requests as a proxy does for a client at address.
type from struct {
	address string
	base    http.RoundTripper
}

func (f from) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", f.address)
	return f.base.RoundTrip(r)
}

// outcome counts the results of attempts.
type outcome struct {
	mu    sync.Mutex
	codes map[string]int
	took  []time.Duration // of those that succeeded
}

// TestHonestUnderAttack makes many addresses, each within its limits, ask for more password hashes than the machine
// can compute. Of the other clients' requests, at least 95 % succeed at the first attempt if they solve the challenge
// that they are given. Those who do not solve it still get a share. Every address has a network of its own.
func TestHonestUnderAttack(t *testing.T) {
	s := startStack(t, []string{"PROVISION_PROMISE=1h", "TRUSTED_PROXIES=127.0.0.0/8"}, "--hash-cost", "real")
	c := &crowdOfClients{url: s.env["MEMBER_URL"], transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	defer c.transport.CloseIdleConnections()
	const members = 12
	for i := range members {
		member := attempt{true, fmt.Sprint("honest", i), passphrase, fmt.Sprintf("10.0.%d.1", i)}
		if err := c.make(t.Context(), member); err != nil {
			t.Fatal(err)
		}
	}
	for _, attack := range []struct {
		name           string
		rate           int // per second
		attack, honest func(i int) attempt
	}{
		{"sign-ins", 200, func(i int) attempt {
			return attempt{false, fmt.Sprint("nobody", i%1000), passphrase, fmt.Sprintf("100.64.%d.1", i%200)}
		}, func(i int) attempt {
			return attempt{false, fmt.Sprint("honest", 1+i%(members-1)), passphrase, fmt.Sprintf("10.1.%d.1", i)}
		}},
		{"guesses at one name", 400, func(i int) attempt {
			n := i % 1600 // three attempts each
			return attempt{false, "honest0", "wrong", fmt.Sprintf("100.%d.%d.1", 65+n/256, n%256)}
		}, func(i int) attempt {
			return attempt{false, "honest0", passphrase, fmt.Sprintf("10.2.%d.1", i)}
		}},
		{"signups", 200, func(i int) attempt {
			return attempt{true, fmt.Sprint("crowd", i), passphrase, fmt.Sprintf("100.80.%d.1", i%200)}
		}, func(i int) attempt {
			return attempt{true, fmt.Sprint("newcomer", i), passphrase, fmt.Sprintf("10.3.%d.1", i)}
		}},
	} {
		t.Run(strings.ReplaceAll(attack.name, " ", "_"), func(t *testing.T) {
			var attackers, solving, plain outcome
			var all sync.WaitGroup
			without := api.WithSolution(t.Context(), "")
			all.Go(func() { attackers.every(without, c, time.Second/time.Duration(attack.rate), attack.attack) })
			all.Go(func() {
				plain.every(without, c, 2*honestEvery, func(i int) attempt { return attack.honest(2 * i) })
			})
			solving.every(t.Context(), c, 2*honestEvery, func(i int) attempt { return attack.honest(2*i + 1) })
			all.Wait()
			t.Logf("%d/s for %s: %s", attack.rate, attackTime, &attackers)
			t.Logf("others who solve challenges: %s; who do not: %s", &solving, &plain)
			if attackers.codes["busy"] == 0 {
				t.Error("there was no attack: no client was told to retry")
			}
			if solving.served() < 0.95 {
				t.Error("fewer than 95 % of those who solve challenges were served")
			}
			if plain.served() < 0.25 {
				t.Error("fewer than a quarter of the others were served")
			}
		})
	}
}

// every makes an attempt once per interval, whether or not earlier ones are answered, and returns when all are.
func (o *outcome) every(ctx context.Context, c *crowdOfClients, interval time.Duration, next func(i int) attempt) {
	o.codes = map[string]int{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var all sync.WaitGroup
	began := time.Now()
	for i := 0; time.Since(began) < attackTime; i++ {
		for time.Since(began) < time.Duration(i)*interval { // make up for missed ticks
			<-tick.C
		}
		all.Go(func() {
			began := time.Now()
			err := c.make(ctx, next(i))
			o.note(err, time.Since(began))
		})
	}
	all.Wait()
}

func (o *outcome) note(err error, took time.Duration) {
	code := "served"
	var refusal *wire.Problem
	if errors.As(err, &refusal) {
		code = refusal.Code
	} else if err != nil {
		code = err.Error()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.codes[code]++
	if err == nil {
		o.took = append(o.took, took)
	}
}

func (o *outcome) served() float64 {
	all := 0
	for _, n := range o.codes {
		all += n
	}
	return float64(o.codes["served"]) / float64(all)
}

func (o *outcome) String() string {
	var text []string
	for _, code := range slices.Sorted(maps.Keys(o.codes)) {
		text = append(text, fmt.Sprintf("%d %s", o.codes[code], code))
	}
	if len(o.took) > 0 {
		slices.Sort(o.took)
		p99 := o.took[len(o.took)*99/100].Round(time.Millisecond)
		text = append(text, fmt.Sprintf("%.0f %% served, p99 %s", 100*o.served(), p99))
	}
	return strings.Join(text, ", ")
}

// crowdOfClients are clients at many addresses.
type crowdOfClients struct {
	url       string
	transport *http.Transport
}

func (c *crowdOfClients) make(ctx context.Context, a attempt) (err error) {
	p := api.NewPublic(c.url, &http.Client{Timeout: 2 * oneTry, Transport: from{a.address, c.transport}})
	if a.signUp {
		_, err = p.SignUp(ctx, wire.NewMember{Username: a.name, Password: a.password}, "")
	} else {
		_, err = p.SignIn(ctx, a.name, a.password)
	}
	return err
}
