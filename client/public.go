package client

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Public calls the public listener of member-svc. Safe for concurrent use.
type Public struct {
	caller
	pause func(context.Context, time.Duration) error
}

// NewPublic returns a client of the listener at base, "https://host:port". If h is nil, it uses
// http.DefaultClient, which has no timeout but the context's.
func NewPublic(base string, h *http.Client) *Public { return &Public{newCaller(base, "", h), pause} }

// Signup is the state of a signup, and what the headers of the answer say about it.
type Signup struct {
	wire.Signup
	Replayed   bool          `json:"-"` // it is the answer to an earlier request with the same key
	RetryAfter time.Duration `json:"-"` // when to poll again; 0 once it is settled
}

// SignUp signs somebody up. A call with the same key ("" for none) may be repeated: it makes no second member,
// and returns the first answer again.
func (p *Public) SignUp(ctx context.Context, m wire.NewMember, key string) (s Signup, err error) {
	r := call{method: http.MethodPost, path: "/v1/members", body: m, into: &s}
	if key != "" {
		r.header = http.Header{"Idempotency-Key": {key}}
	}
	header, err := p.work(ctx, r)
	s.Replayed = header.Get("Idempotent-Replayed") != ""
	return s, err
}

// Retry bounds how often a call is repeated, and how quickly.
type Retry struct {
	Attempts  int           // at least 1
	BaseDelay time.Duration // longest wait before the second attempt; doubles
	MaxDelay  time.Duration // longest wait, unless the service asks for a longer one
}

// DefaultRetry gives up after about half a minute.
var DefaultRetry = Retry{Attempts: 8, BaseDelay: 200 * time.Millisecond, MaxDelay: 10 * time.Second}

// SignUpRetry calls [Public.SignUp] with a key of its own until it knows the outcome. It retries after a broken
// connection and after answers that are [wire.Problem.Temporary], no sooner than they ask for. After the last
// attempt it returns that attempt's error.
func (p *Public) SignUpRetry(ctx context.Context, m wire.NewMember, r Retry) (Signup, error) {
	key, delay := rand.Text(), r.BaseDelay
	for attempt := 1; ; attempt++ {
		s, err := p.SignUp(ctx, m, key)
		var refusal *wire.Problem
		refused := errors.As(err, &refusal)
		if err == nil || refused && !refusal.Temporary() || ctx.Err() != nil || attempt >= r.Attempts {
			return s, err
		}
		wait := mathrand.N(delay + 1)
		if refused {
			wait = max(wait, refusal.RetryAfter)
		}
		if p.pause(ctx, wait) != nil {
			return s, err
		}
		delay = min(2*delay, r.MaxDelay)
	}
}

// Signup returns a signup.
func (p *Public) Signup(ctx context.Context, id string) (s Signup, err error) {
	header, err := p.do(ctx, call{method: http.MethodGet, path: "/v1/signups/" + url.PathEscape(id), into: &s})
	s.RetryAfter = retryAfter(header)
	return s, err
}

// Watch yields a signup as it is now and after each change until it is settled, and reconnects as often as that
// takes. An error is the last thing it yields.
func (p *Public) Watch(ctx context.Context, id string) iter.Seq2[Signup, error] {
	return func(yield func(Signup, error) bool) {
		for w := (watch{yield: yield}); ; {
			err := w.stream(ctx, p, id)
			var refusal *wire.Problem
			refused := errors.As(err, &refusal)
			switch {
			case w.done:
				return
			case ctx.Err() != nil || refused && !refusal.Temporary():
				yield(Signup{}, err)
				return
			}
			wait := time.Second + mathrand.N(2*time.Second)
			if refused {
				wait = max(wait, refusal.RetryAfter)
			}
			_ = p.pause(ctx, wait) // if it fails, the next stream fails, too
		}
	}
}

// watch is the state that is kept across the connections of [Public.Watch].
type watch struct {
	yield func(Signup, error) bool
	last  string // id of the newest event
	done  bool
}

func (w *watch) stream(ctx context.Context, p *Public, id string) error {
	r := call{method: http.MethodGet, path: "/v1/signups/" + url.PathEscape(id) + "/events"}
	if w.last != "" {
		r.header = http.Header{"Last-Event-Id": {w.last}}
	}
	response, err := p.send(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if w.done = response.StatusCode == http.StatusNoContent; w.done {
		return nil
	}
	lines := bufio.NewScanner(io.LimitReader(response.Body, MaxBody))
	for event := ""; !w.done && lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			event = value
		case "data":
			var s Signup
			if err := json.Unmarshal([]byte(value), &s); err != nil {
				return fmt.Errorf("event: %w", err)
			}
			if event != w.last { // a new connection begins with the state that is already known
				w.done = !w.yield(s, nil)
			}
			w.last, w.done = event, w.done || s.Settled()
		}
	}
	return lines.Err()
}

// SignIn opens a session.
func (p *Public) SignIn(ctx context.Context, username, password string) (s wire.Session, err error) {
	body := map[string]string{"username": username, "password": password}
	_, err = p.work(ctx, call{method: http.MethodPost, path: "/v1/sessions", body: body, into: &s})
	return s, err
}

// SignOut ends a session.
func (p *Public) SignOut(ctx context.Context, token string) error {
	_, err := p.do(ctx, call{method: http.MethodDelete, path: "/v1/sessions/current", token: token})
	return err
}

// Sessions lists the sessions of the member that token belongs to.
func (p *Public) Sessions(ctx context.Context, token string) ([]wire.OpenSession, error) {
	var list struct {
		Items []wire.OpenSession `json:"items"`
	}
	_, err := p.do(ctx, call{method: http.MethodGet, path: "/v1/sessions", token: token, into: &list})
	return list.Items, err
}

// EndSession ends one of the member's sessions by its id.
func (p *Public) EndSession(ctx context.Context, token, id string) error {
	_, err := p.do(ctx, call{method: http.MethodDelete, path: "/v1/sessions/" + url.PathEscape(id), token: token})
	return err
}

// EndSessions ends all of the member's sessions or, with others, all but the one of token.
func (p *Public) EndSessions(ctx context.Context, token string, others bool) error {
	which := url.Values{"others": {strconv.FormatBool(others)}}
	_, err := p.do(ctx, call{method: http.MethodDelete, path: "/v1/sessions", query: which, token: token})
	return err
}

// ChangePassword replaces the password and ends the member's other sessions.
func (p *Public) ChangePassword(ctx context.Context, token, old, changed string) error {
	body := map[string]string{"old_password": old, "new_password": changed}
	_, err := p.work(ctx, call{method: http.MethodPut, path: "/v1/members/me/password", token: token, body: body})
	return err
}

// Member returns the account of the member that token belongs to.
func (p *Public) Member(ctx context.Context, token string) (m wire.Member, err error) {
	_, err = p.do(ctx, call{method: http.MethodGet, path: "/v1/members/me", token: token, into: &m})
	return m, err
}

// Leave ends the membership and all its sessions. If the answer is lost, a second call finds that the session
// has ended: 401 unauthorized.
func (p *Public) Leave(ctx context.Context, token, password string) (s Signup, err error) {
	body := map[string]string{"password": password}
	_, err = p.work(ctx, call{method: http.MethodDelete, path: "/v1/members/me", token: token, body: body, into: &s})
	return s, err
}
