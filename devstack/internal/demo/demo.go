// Package demo shows, on a running stack, what this project is for: signups that survive every outage.
package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signup-saga/signup-saga/devstack/internal/stack"
	"github.com/signup-saga/signup-saga/devstack/testenv/ledger"
)

const (
	// people is how many people sign up in each of the two crowds.
	people = 20
	// patience limits every wait. It is several times the longest pause between two attempts of anything.
	patience = 90 * time.Second
	// courtesy limits the wait for mails, which are not promised.
	courtesy  = 30 * time.Second
	pollEvery = 50 * time.Millisecond
)

// ErrUnbalanced is returned by Run if a promise was broken.
var ErrUnbalanced = errors.New("the ledger does not balance")

// story is the state of a running demo.
type story struct {
	*clients
	stack    *stack.Stack
	screen   *Screen
	before   map[string]int // storages the provider had created before, by member
	promises []accepted
	mailed   int // by mail servers that have since been stopped
}

// Run runs the demo on a fresh stack that was started with faults on. It returns an error if a promise was
// broken or something took too long.
func Run(ctx context.Context, s *stack.Stack, screen *Screen) error {
	before, err := ledger.Creations(s.Variables().Get("PROVIDER_LEDGER"))
	if err != nil {
		return err
	}
	t := &story{clients: newClients(s.Variables()), stack: s, screen: screen, before: before}
	for _, chapter := range []func(context.Context) error{
		t.peopleSignUp, t.thingsGoDown, t.morePeopleSignUp, t.thingsComeBack, t.oneIsRefused, t.anOperatorRetries,
	} {
		if err := chapter(ctx); err != nil {
			if ctx.Err() == nil {
				screen.Fail()
			}
			return err
		}
	}
	return t.balanceTheBooks(ctx)
}

func (t *story) peopleSignUp(ctx context.Context) error {
	t.screen.Begin(fmt.Sprintf("%d people sign up", people))
	times, err := t.crowd(ctx)
	if err != nil {
		return err
	}
	if err := t.allReady(ctx); err != nil {
		return err
	}
	t.screen.Done("201 in %s · %d of %d ready", times, len(t.promises), len(t.promises))
	return nil
}

func (t *story) thingsGoDown(ctx context.Context) error {
	t.screen.Begin("NATS, the storage provider and the mail server go down")
	if _, err := t.mailsUntil(ctx, len(t.promises)); err != nil {
		return err
	}
	if err := t.provider(ctx, "outage"); err != nil {
		return err
	}
	sent, err := t.mails(ctx)
	if err != nil {
		return err
	}
	t.mailed += sent // the mail server forgets its mails when it stops
	for _, name := range []string{"smtp", "nats"} {
		if _, err := t.stack.Do(ctx, "stop", name, ""); err != nil {
			return err
		}
	}
	t.screen.Done("all three are down")
	return nil
}

func (t *story) morePeopleSignUp(ctx context.Context) error {
	t.screen.Begin(fmt.Sprintf("%d more people sign up meanwhile", people))
	times, err := t.crowd(ctx)
	if err != nil {
		return err
	}
	for _, p := range t.promises[people:] {
		state, err := t.state(ctx, p.SignupID)
		if err != nil {
			return err
		}
		if state != "provisioning" {
			return fmt.Errorf("a signup is %s, although nothing can provision it", state)
		}
	}
	t.screen.Done("201 in %s · %d provisioning", times, people)
	return nil
}

func (t *story) thingsComeBack(ctx context.Context) error {
	t.screen.Begin("All three come back")
	for _, name := range []string{"nats", "smtp"} {
		if _, err := t.stack.Do(ctx, "start", name, ""); err != nil {
			return err
		}
	}
	if err := t.provider(ctx, "none"); err != nil {
		return err
	}
	if err := t.allReady(ctx); err != nil {
		return err
	}
	t.screen.Done("%d of %d ready after %.1f s, without an operator", len(t.promises), len(t.promises),
		t.screen.Elapsed().Seconds())
	return nil
}

func (t *story) oneIsRefused(ctx context.Context) error {
	t.screen.Begin("The provider refuses one more for good")
	if err := t.provider(ctx, "reject"); err != nil {
		return err
	}
	p, err := t.signUp(ctx)
	if err != nil {
		return err
	}
	t.promises = append(t.promises, p)
	if err := t.reaches(ctx, p, "needs_attention"); err != nil {
		return err
	}
	t.screen.Done("needs_attention · an operator can see why")
	return nil
}

func (t *story) anOperatorRetries(ctx context.Context) error {
	t.screen.Begin("The cause is fixed, and an operator retries it")
	if err := t.provider(ctx, "none"); err != nil {
		return err
	}
	p := t.promises[len(t.promises)-1]
	if err := t.retry(ctx, p.name, "the provider accepts it now"); err != nil {
		return err
	}
	if err := t.reaches(ctx, p, "ready"); err != nil {
		return err
	}
	t.screen.Done("ready after %.1f s", t.screen.Elapsed().Seconds())
	return nil
}

// crowd signs people up one after the other and returns a summary of their waiting times.
func (t *story) crowd(ctx context.Context) (string, error) {
	var times []time.Duration
	for n := range people {
		p, err := t.signUp(ctx)
		if err != nil {
			return "", err
		}
		t.promises = append(t.promises, p)
		times = append(times, p.took)
		t.screen.Update("%d of %d signed up", n+1, people)
	}
	slices.Sort(times)
	return fmt.Sprintf("%d ms (p50), %d ms at most", times[len(times)/2].Milliseconds(),
		times[len(times)-1].Milliseconds()), nil
}

// allReady waits until every promise is kept.
func (t *story) allReady(ctx context.Context) error {
	open := slices.Clone(t.promises)
	return t.until(ctx, "every signup to be ready", patience, func() (bool, error) {
		for len(open) > 0 {
			state, err := t.state(ctx, open[0].SignupID)
			if err != nil || state != "ready" {
				t.screen.Update("%d of %d ready", len(t.promises)-len(open), len(t.promises))
				return false, err
			}
			open = open[1:]
		}
		return true, nil
	})
}

func (t *story) reaches(ctx context.Context, p accepted, want string) error {
	return t.until(ctx, "a signup to be "+want, patience, func() (bool, error) {
		state, err := t.state(ctx, p.SignupID)
		t.screen.Update("%s", state)
		return state == want, err
	})
}

// mailsUntil waits up to courtesy for a number of mails and returns how many were received. Too few mails are
// not an error.
func (t *story) mailsUntil(ctx context.Context, want int) (int, error) {
	var received int
	err := t.until(ctx, "mails", courtesy, func() (bool, error) {
		sent, err := t.mails(ctx)
		received = t.mailed + sent
		t.screen.Update("%d of %d mails sent", received, want)
		return received >= want, err
	})
	if errors.Is(err, errTooLong) {
		err = nil
	}
	return received, err
}

var errTooLong = errors.New("it took too long")

// until polls done until it returns true or an error, or until limit has passed.
func (t *story) until(ctx context.Context, what string, limit time.Duration, done func() (bool, error)) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("waited %s for %s: %w", limit, what, errTooLong)
		}
	}
}

// balanceTheBooks prints both lanes and the ledger.
func (t *story) balanceTheBooks(ctx context.Context) error {
	sent, err := t.mailsUntil(ctx, len(t.promises))
	if err != nil {
		return err
	}
	waiting, err := waitingMails(ctx, t.to.Get("MEMBER_DATABASE_URL"))
	if err != nil {
		return err
	}
	states, err := memberStates(ctx, t.to.Get("MEMBER_DATABASE_URL"))
	if err != nil {
		return err
	}
	created, err := ledger.Creations(t.to.Get("PROVIDER_LEDGER"))
	if err != nil {
		return err
	}
	for member, times := range t.before {
		if created[member] -= times; created[member] == 0 {
			delete(created, member)
		}
	}
	l := balance(t.promises, states, created)
	s := t.screen
	s.Print("\n  %s   %d/%d ready", s.bold("essential    "), l.ready, l.accepted)
	s.Print("  %s   %d sent, %d waiting", s.bold("non-essential"), sent, waiting)
	s.Print("  %s   accepted %d, ready %d, lost %d, doubles %d", s.bold("ledger       "), l.accepted, l.ready, l.lost,
		l.doubles)
	if !l.balances() {
		return ErrUnbalanced
	}
	return nil
}
