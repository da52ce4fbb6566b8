package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	api "github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/e2e/oracle"
)

const (
	// oneTry is how long a client waits for one response. longPatience is how long it keeps retrying.
	oneTry       = 5 * time.Second
	longPatience = time.Minute
)

// book is the client's own journal: a file in which every response is on disk before the client sends the next
// request.
type book struct {
	mu   sync.Mutex
	file *os.File
}

func newBook(t testing.TB) *book {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "client.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &book{file: file}
}

func (b *book) write(line oracle.Line) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.file.Write(append(text, '\n')); err != nil {
		return err
	}
	if line.Op == oracle.Accepted || line.Op == oracle.Left {
		return b.file.Sync()
	}
	return nil
}

// tries counts the results of the clients' requests.
type tries struct {
	acknowledged, refused, retried, failed, left atomic.Int64
}

// client is a careful program: it names each signup by an Idempotency-Key, and retries at the next replica until
// it has a final response.
type client struct {
	http    *http.Client
	members []*api.Public // replicas
	next    atomic.Uint64
	book    *book
	tries   *tries
	// patience is how long it retries; zero: it does not retry.
	patience time.Duration
}

func newClient(b *book, n *tries, members ...string) *client {
	c := &client{http: &http.Client{Timeout: oneTry, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}, book: b,
		tries: n, patience: longPatience}
	for _, base := range members {
		c.members = append(c.members, api.NewPublic(base, c.http))
	}
	return c
}

// person is a person who signs up.
type person struct {
	oracle.Line
	password string
	took     time.Duration // until the response
}

// signUp signs a new person up. It returns an error if the final response is not a 201. twice means a double click.
func (c *client) signUp(ctx context.Context, twice bool) (person, error) {
	p := person{password: oracle.Canary + "-" + rand.Text()}
	p.Op, p.Key, p.Username = oracle.Asked, rand.Text(), oracle.Canary+strings.ToLower(rand.Text()[:16])
	if err := c.book.write(p.Line); err != nil {
		return p, err
	}
	somebody := wire.NewMember{Username: p.Username, Password: p.password, Email: p.Username + "@" + oracle.Canary +
		".example"}
	clicks, began := 1+count(twice), time.Now()
	answers := make(chan error, clicks)
	var lines [2]oracle.Line
	for i := range clicks {
		go func() {
			signup, _, err := persist(ctx, c,
				func(m *api.Public) (api.Signup, error) { return m.SignUp(ctx, somebody, p.Key) })
			line := p.Line
			line.Op, line.Twice, line.SignupID, line.MemberID = oracle.Accepted, twice, signup.SignupID, signup.MemberID
			if err == nil {
				err = c.book.write(line)
			}
			lines[i] = line
			answers <- err
		}()
	}
	var err error
	for range clicks {
		err = errors.Join(err, <-answers)
	}
	if err != nil {
		c.tries.failed.Add(1)
		return p, fmt.Errorf("signup %s: %w", p.Key, err)
	}
	c.tries.acknowledged.Add(1)
	p.Line, p.took = lines[0], time.Since(began)
	return p, nil
}

// leave asks to delete the member. If the response is lost, it asks again: an ended session then shows that it
// worked.
func (c *client) leave(ctx context.Context, p person) error {
	session, _, err := persist(ctx, c,
		func(m *api.Public) (wire.Session, error) { return m.SignIn(ctx, p.Username, p.password) })
	if err != nil {
		return fmt.Errorf("session of %s: %w", p.MemberID, err)
	}
	p.Op = oracle.Leaving
	if err := c.book.write(p.Line); err != nil {
		return err
	}
	_, tries, err := persist(ctx, c,
		func(m *api.Public) (api.Signup, error) { return m.Leave(ctx, session.Token, p.password) })
	var refusal *wire.Problem
	if over := errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized && tries > 1; err != nil && !over {
		return fmt.Errorf("%s leaves: %w", p.MemberID, err)
	}
	p.Op = oracle.Left
	c.tries.left.Add(1)
	return c.book.write(p.Line)
}

// persist repeats a call, at the next replica, until it succeeds, is refused for good, or patience ends. It
// repeats failed connections and 503 responses only. It returns how many tries it made.
func persist[T any](
	ctx context.Context, c *client, call func(*api.Public) (T, error),
) (answer T, tries int, err error) {
	deadline := time.Now().Add(c.patience)
	for tries = 1; ; tries++ {
		answer, err = call(c.members[c.next.Add(1)%uint64(len(c.members))])
		if err == nil {
			return answer, tries, nil
		}
		if tries == 1 {
			c.tries.refused.Add(1)
		}
		var refusal *wire.Problem
		final := errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable
		if final || time.Now().After(deadline) || ctx.Err() != nil {
			return answer, tries, err
		}
		c.tries.retried.Add(1)
		<-time.After(20*time.Millisecond + mathrand.N(100*time.Millisecond))
	}
}

// load is a stream of people who sign up until it is stopped.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup
	mu   sync.Mutex
	errs []error
	// spoilt is closed when so many clients have failed that the attack is pointless.
	spoilt chan struct{}
}

// tooMuch is how many clients may fail before a load is given up.
const tooMuch = 10

// start makes perSecond people sign up each second until stop, at most atOnce of them at a time. Every hundredth
// clicks twice. After each signup it calls then, which may be nil, with the person.
func (c *client) start(perSecond, atOnce int, then func(ctx context.Context, p person) error) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop, spoilt: make(chan struct{})}
	turns := make(chan int)
	l.done.Go(func() {
		defer close(turns)
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case turns <- n:
			case <-ctx.Done():
				return
			}
		}
	})
	for range atOnce {
		l.done.Go(func() {
			for n := range turns {
				// A signup that has begun gets its response, even after stop.
				p, err := c.signUp(context.WithoutCancel(ctx), n%100 == 50)
				if err == nil && then != nil {
					err = then(context.WithoutCancel(ctx), p)
				}
				if err != nil {
					l.mu.Lock()
					if l.errs = append(l.errs, err); len(l.errs) == tooMuch {
						close(l.spoilt)
					}
					l.mu.Unlock()
				}
			}
		})
	}
	return l
}

// end stops the load, waits for pending signups, and returns the errors.
func (l *load) end() error {
	l.stop()
	l.done.Wait()
	return errors.Join(l.errs...)
}
