package faultscreen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/internal/demo"
)

const (
	kept, shown = 1000, 10 // latest signups that are kept, and listed
	answerLimit = 3 * time.Second
	// A stream makes one signup every streamEvery, for streamLimit.
	streamEvery, streamLimit = 500 * time.Millisecond, 5 * time.Minute
)

// person is a person who has tried to sign up.
type person struct {
	At                      time.Time // of the answer
	Name, SignupID, Failure string    // Failure is "" if the answer was 201
	Took                    time.Duration
	State                   string // of the signup, only set for people who are listed; "" if unknown
}

// tally counts signups by their answers.
type tally struct{ Accepted, Failed int }

func (t *tally) add(p person) {
	if p.Failure == "" {
		t.Accepted++
	} else {
		t.Failed++
	}
}

// crowd signs people up and records the results. It is safe for concurrent use.
type crowd struct {
	signUp func(context.Context, wire.NewMember, string) (client.Signup, error)

	running sync.WaitGroup // streams
	mu      sync.Mutex     // guards the fields below
	latest  []person       // oldest first
	all     tally
	until   time.Time // when the stream ends
	end     context.CancelFunc
}

// one signs one person up and records the result, unless ctx ends first.
func (c *crowd) one(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	guest, began := demo.Guest(), time.Now()
	signup, err := c.signUp(limited, guest, "")
	if ctx.Err() != nil {
		return
	}
	p := person{At: time.Now(), Name: guest.Username, SignupID: signup.SignupID, Took: time.Since(began)}
	if refusal, ok := errors.AsType[*wire.Problem](err); ok {
		p.Failure = fmt.Sprintf("%d %s", refusal.Status, cmp.Or(refusal.Code, refusal.Title))
	} else if err != nil {
		p.Failure = "no answer"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all.add(p)
	c.latest = append(c.latest, p)
	c.latest = slices.Delete(c.latest, 0, max(0, len(c.latest)-kept))
}

// stream ends the current stream, if any, and starts a new one if wanted is true.
func (c *crowd) stream(wanted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		c.end()
	}
	c.end, c.until = nil, time.Time{}
	if !wanted {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), streamLimit)
	c.end, c.until = cancel, time.Now().Add(streamLimit)
	c.running.Go(func() {
		for tick := time.Tick(streamEvery); ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-tick:
				c.one(ctx)
			}
		}
	})
}

// report summarises the crowd.
type report struct {
	All, Since  tally         // Since: of the kept people, those after a given time
	Median, Max time.Duration // from request to answer, of the kept people who were answered 201
	Latest      []person      // newest first
	Until       time.Time     // when the stream ends; zero if there is none
}

func (c *crowd) report(after time.Time) report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := report{All: c.all}
	if c.until.After(time.Now()) {
		r.Until = c.until
	}
	var times []time.Duration
	for _, p := range slices.Backward(c.latest) {
		if p.At.After(after) {
			r.Since.add(p)
		}
		if p.Failure == "" {
			times = append(times, p.Took)
		}
		if len(r.Latest) < shown {
			r.Latest = append(r.Latest, p)
		}
	}
	if slices.Sort(times); len(times) > 0 {
		r.Median, r.Max = times[len(times)/2], times[len(times)-1]
	}
	return r
}
