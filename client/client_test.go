package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// reply is a server's answer, or the way in which it breaks the connection.
type reply struct {
	status     int
	retryAfter string
	body       string
}

const (
	created   = `{"signup_id":"sgn_1","state":"provisioning"}`
	busy      = `{"code":"busy","status":503,"detail":"wait"}`
	unchanged = "event: state\nid: 1\ndata: " + created + "\n\n"
	settled   = "retry: 10\nevent: state\nid: 2\ndata: {\"signup_id\":\"sgn_1\",\"state\":\"ready\"}\n\n"
)

// serve gives the replies in order. It keeps requests as method, path, the headers that matter, and body.
func serve(t *testing.T, replies ...reply) (base string, requests func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h := r.Header
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, strings.Join([]string{r.Method, r.URL.String(), h.Get("Idempotency-Key"),
			h.Get("Authorization"), h.Get("If-Match"), h.Get("Last-Event-ID"), string(body)}, "|"))
		now := replies[min(len(seen), len(replies))-1]
		if now.status == 0 {
			panic(http.ErrAbortHandler)
		}
		if now.retryAfter != "" {
			w.Header().Set("Retry-After", now.retryAfter)
		}
		w.WriteHeader(now.status)
		_, _ = io.WriteString(w, now.body)
	}))
	t.Cleanup(server.Close)
	return server.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// waits returns a client that records how long it would wait, and does not wait.
func waits(base string) (*Public, *[]time.Duration) {
	p, waited := NewPublic(base, nil), new([]time.Duration)
	p.pause = func(ctx context.Context, d time.Duration) error {
		*waited = append(*waited, d)
		return ctx.Err()
	}
	return p, waited
}

func TestSignUpRetryKeepsItsKey(t *testing.T) {
	base, requests := serve(t, reply{}, reply{503, "7", busy}, reply{429, "", `{}`}, reply{201, "", created})
	p, waited := waits(base)
	s, err := p.SignUpRetry(t.Context(), wire.NewMember{Username: "mina"},
		Retry{Attempts: 4, BaseDelay: time.Second, MaxDelay: time.Second})
	if err != nil || s.SignupID != "sgn_1" {
		t.Fatalf("%+v, %v", s, err)
	}
	first, _, _ := strings.Cut(requests()[0], "||")
	if len(requests()) != 4 || len(slices.Compact(requests())) != 1 || len(first) < len("POST|/v1/members|")+20 {
		t.Errorf("requests %q", requests())
	}
	if len(*waited) != 3 || (*waited)[0] > time.Second || (*waited)[1] != 7*time.Second || (*waited)[2] > time.Second {
		t.Errorf("waited %v", *waited)
	}
}

func TestSignUpRetryEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name     string
		ctx      context.Context
		reply    reply
		attempts int
	}{
		{"at a final answer", t.Context(), reply{409, "", `{"code":"username_taken"}`}, 1},
		{"after so many attempts", t.Context(), reply{503, "1", busy}, 3},
		{"with broken connections", t.Context(), reply{}, 3},
		{"with its context", ctx, reply{201, "", created}, 0},
	} {
		base, requests := serve(t, tc.reply)
		p, _ := waits(base)
		_, err := p.SignUpRetry(tc.ctx, wire.NewMember{}, Retry{Attempts: 3})
		var refusal *wire.Problem
		if err == nil || len(requests()) != tc.attempts || errors.As(err, &refusal) != (tc.reply.status >= 400) {
			t.Errorf("%s: %v after %d requests", tc.name, err, len(requests()))
		}
	}
}

func TestProblems(t *testing.T) {
	for _, tc := range []struct {
		reply     reply
		want      wire.Problem
		temporary bool
	}{
		{
			reply{422, "",
				`{"title":"No","status":422,"code":"validation_failed","errors":[` +
					`{"pointer":"/username","detail":"no"}]}`},
			wire.Problem{Title: "No", Status: 422, Code: "validation_failed",
				Errors: []wire.FieldError{{Pointer: "/username", Detail: "no"}}}, false},
		{reply{503, "2", busy}, wire.Problem{Status: 503, Code: "busy", Detail: "wait", RetryAfter: 2 * time.Second},
			true},
		{reply{502, "soon", "<html>"}, wire.Problem{Title: "Bad Gateway", Status: 502}, true},
		{reply{408, "", "{}"}, wire.Problem{Status: 408}, true},
	} {
		base, _ := serve(t, tc.reply)
		_, err := NewPublic(base, nil).SignIn(t.Context(), "mina", "x")
		var got *wire.Problem
		if !errors.As(err, &got) || fmt.Sprint(*got) != fmt.Sprint(tc.want) || got.Temporary() != tc.temporary {
			t.Errorf("%d: %+v, %v", tc.reply.status, got, err)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	base, _ := serve(t, reply{200, "", strings.Repeat(" ", MaxBody+1)})
	if _, err := NewPublic(base, nil).Signup(t.Context(), "x"); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestWatch(t *testing.T) {
	base, requests := serve(t, reply{200, "", unchanged}, reply{503, "9", busy}, reply{},
		reply{200, "", unchanged + settled})
	p, waited := waits(base)
	var states []string
	for s, err := range p.Watch(t.Context(), "sgn_1") {
		states = append(states, fmt.Sprint(s.State, err))
	}
	if fmt.Sprint(states) != "[provisioning<nil> ready<nil>]" {
		t.Errorf("%q", states)
	}
	if len(requests()) != 4 || !strings.HasSuffix(requests()[0], "||||") || !strings.HasSuffix(requests()[3], "|1|") ||
		(*waited)[1] != 9*time.Second {
		t.Errorf("%q, waited %v", requests(), *waited)
	}
	for _, tc := range []struct {
		reply reply
		want  int // yields
	}{{reply{204, "", ""}, 0}, {reply{404, "", `{"code":"not_found"}`}, 1}} {
		base, _ := serve(t, tc.reply)
		n := 0
		for _, err := range NewPublic(base, nil).Watch(t.Context(), "x") {
			n++
			var refusal *wire.Problem
			if !errors.As(err, &refusal) {
				t.Error(err)
			}
		}
		if n != tc.want {
			t.Errorf("%d: yielded %d times", tc.reply.status, n)
		}
	}
}

func TestRequests(t *testing.T) {
	base, requests := serve(t, reply{200, "1", `{}`})
	p, a, s := NewPublic(base+"/", nil), NewAdmin(base, "admin", nil), NewStorage(base, "service", nil)
	ctx, late := t.Context(), true
	group := wire.NewGroupRetry{Filter: map[string]string{"error": "e"}}
	for _, tc := range []struct {
		want string
		call func() error
	}{
		{`POST|/v1/members|k||||{"username":"u","password":"p"}`,
			func() error { _, err := p.SignUp(ctx, wire.NewMember{Username: "u", Password: "p"}, "k"); return err }},
		{`GET|/v1/signups/a%2Fb|||||`, func() error {
			found, err := p.Signup(ctx, "a/b")
			if found.RetryAfter != time.Second {
				t.Errorf("%+v", found)
			}
			return err
		}},
		{`POST|/v1/sessions|||||{"password":"p","username":"u"}`,
			func() error { _, err := p.SignIn(ctx, "u", "p"); return err }},
		{`DELETE|/v1/sessions/current||Bearer t|||`, func() error { return p.SignOut(ctx, "t") }},
		{`GET|/v1/members/me||Bearer t|||`, func() error { _, err := p.Member(ctx, "t"); return err }},
		{`DELETE|/v1/members/me||Bearer t|||{"password":"p"}`,
			func() error { _, err := p.Leave(ctx, "t", "p"); return err }},
		{
			`GET|/admin/v1/sagas?created_after=2026-11-22T10%3A00%3A00Z&cursor=c&delayed=true&error=e&limit=2` +
				`&member_id=m&plan=free&state=ready&username=u||Bearer admin|||`, func() error {
				f := SagaFilter{State: wire.Ready, Delayed: &late, Plan: "free", Error: "e", Username: "u",
					MemberID: "m", CreatedAfter: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
				_, err := a.Sagas(ctx, f, PageOf{"c", 2})
				return err
			}},
		{`GET|/admin/v1/sagas/i||Bearer admin|||`, func() error { _, err := a.Saga(ctx, "i"); return err }},
		{`POST|/admin/v1/sagas/i/retry||Bearer admin|"3"||{"reason":"r"}`,
			func() error { _, err := a.Retry(ctx, "i", Act{"r", 3}); return err }},
		{`POST|/admin/v1/sagas/i/cancel||Bearer admin|||{"reason":"r"}`,
			func() error { _, err := a.Cancel(ctx, "i", Act{Reason: "r"}); return err }},
		{`GET|/admin/v1/overview||Bearer admin|||`, func() error { _, err := a.Overview(ctx); return err }},
		{`GET|/admin/v1/failures?limit=3||Bearer admin|||`, func() error { _, err := a.Failures(ctx, 3); return err }},
		{`POST|/admin/v1/retries||Bearer admin|||{"filter":{"error":"e"},"dry_run":true}`,
			func() error { _, err := a.CountGroup(ctx, group); return err }},
		{`POST|/admin/v1/retries||Bearer admin|||{"filter":{"error":"e"}}`,
			func() error { _, err := a.RetryGroup(ctx, group); return err }},
		{`GET|/admin/v1/retries||Bearer admin|||`,
			func() error { _, err := a.GroupRetries(ctx, PageOf{}); return err }},
		{`GET|/admin/v1/retries/i||Bearer admin|||`, func() error { _, err := a.GroupRetry(ctx, "i"); return err }},
		{`POST|/admin/v1/retries/i/cancel||Bearer admin|||`,
			func() error { _, err := a.CancelGroupRetry(ctx, "i", ""); return err }},
		{`POST|/admin/v1/retries/i/cancel||Bearer admin|||{"reason":"r"}`,
			func() error { _, err := a.CancelGroupRetry(ctx, "i", "r"); return err }},
		{`GET|/admin/v1/outbox/dead||Bearer admin|||`,
			func() error { _, err := a.DeadEvents(ctx, PageOf{}); return err }},
		{`POST|/admin/v1/outbox/dead/i/requeue||Bearer admin|||{"reason":"r"}`,
			func() error { _, err := a.RequeueEvent(ctx, "i", "r"); return err }},
		{`GET|/admin/v1/audit?action=b&actor=a&saga_id=s||Bearer admin|||`,
			func() error { _, err := a.Audit(ctx, AuditFilter{"a", "b", "s"}, PageOf{}); return err }},
		{`GET|/v1/storages||Bearer service|||`, func() error { _, err := s.List(ctx, PageOf{}); return err }},
		{`GET|/v1/storages/m||Bearer service|||`, func() error { _, err := s.Get(ctx, "m"); return err }},
		{`GET|/v1/dead-letters?limit=5||Bearer service|||`,
			func() error { _, err := s.DeadLetters(ctx, PageOf{Limit: 5}); return err }},
		{`POST|/v1/dead-letters/d/requeue||Bearer service|||`, func() error { return s.Requeue(ctx, "d") }},
		{`GET|/v1/faults||Bearer service|||`, func() error { _, err := s.Fault(ctx); return err }},
		{`PUT|/v1/faults||Bearer service|||{"mode":"slow","probability":1,"latency_ms":5}`,
			func() error { return s.SetFault(ctx, wire.Fault{Mode: "slow", Probability: 1, LatencyMS: 5}) }},
	} {
		if err := tc.call(); err != nil {
			t.Errorf("%s: %v", tc.want, err)
		}
		if got := requests()[len(requests())-1]; got != tc.want {
			t.Errorf("sent %s\nwant %s", got, tc.want)
		}
	}
}
