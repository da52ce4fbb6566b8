package faultscreen

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/internal/process"
	"github.com/signup-saga/signup-saga/devstack/internal/stack"
)

// A stream that nobody stops ends after streamLimit, and uses bounded memory.
func TestStreamEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{signUp: func(context.Context, wire.NewMember, string) (client.Signup,
			error) {
			return client.Signup{}, nil
		}}
		began := time.Now()
		for range 2 {
			c.stream(true)
			c.running.Wait()
		}
		if took := time.Since(began); took != 2*streamLimit {
			t.Errorf("two streams ended after %s", took)
		}
		r, most := c.report(began), int(2*streamLimit/streamEvery)
		if r.All.Accepted > most || r.All.Accepted < most-2 || len(c.latest) != kept || r.Since.Accepted != kept ||
			!r.Until.IsZero() {
			t.Errorf("%d signups, %d remembered, report %+v", r.All.Accepted, len(c.latest), r)
		}
	})
}

func TestStreamIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{signUp: func(ctx context.Context, _ wire.NewMember, _ string) (client.Signup, error) {
			<-ctx.Done() // a service that hangs
			return client.Signup{}, ctx.Err()
		}}
		c.stream(true)
		c.stream(true) // replaces the first
		<-time.After(streamEvery + answerLimit/2)
		if c.report(time.Time{}).Until.IsZero() {
			t.Error("the stream is not shown")
		}
		c.stream(false)
		began := time.Now()
		c.running.Wait()
		if r := c.report(time.Time{}); time.Since(began) > 0 || r.All != (tally{}) || !r.Until.IsZero() {
			t.Errorf("ended after %s, report %+v", time.Since(began), r)
		}
	})
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var takes time.Duration
		var fails error
		c := &crowd{signUp: func(context.Context, wire.NewMember, string) (client.Signup, error) {
			<-time.After(takes)
			return client.Signup{Signup: wire.Signup{SignupID: "sgn_1"}}, fails
		}}
		for _, takes = range []time.Duration{30, 10, 20} {
			c.one(t.Context())
		}
		since := time.Now()
		fails = &wire.Problem{Status: 503, Code: "busy"}
		takes = 99
		c.one(t.Context())
		fails = errors.New("connection refused")
		c.one(t.Context())
		r := c.report(since)
		if r.All != (tally{3, 2}) || r.Since != (tally{0, 2}) || r.Median != 20 || r.Max != 30 {
			t.Errorf("%+v", r)
		}
		if len(r.Latest) != 5 || r.Latest[0].Failure != "no answer" || r.Latest[1].Failure != "503 busy" ||
			r.Latest[2].SignupID != "sgn_1" {
			t.Errorf("latest %+v", r.Latest)
		}
	})
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		broken  string // name=state …
		fault   *wire.Fault
		since   tally
		members map[string]int
		want    string
	}{
		{"", &wire.Fault{Mode: "none"}, tally{}, map[string]int{"ready": 3},
			"good Everything runs: nobody has tried to sign up since then; nobody waits."},
		{"nats=killed", nil, tally{12, 0}, map[string]int{"provisioning": 12},
			"wait NATS is down: 12 of 12 signups since then were answered 201; 12 wait for their storage."},
		{"member-2=paused smtp=died", &wire.Fault{Mode: "reject", Probability: .5}, tally{1, 0},
			map[string]int{"needs_attention": 1},
			"wait The Member service 2 is paused, the mail server is down, the provider refuses: 1 of 1 signups " +
				"since then were answered 201; 1 need an operator."},
		{"", &wire.Fault{Mode: "outage"}, tally{1, 0}, map[string]int{},
			"good Everything runs: 1 of 1 signups since then were answered 201; nobody waits."},
		{"postgres=stopped", nil, tally{1, 2}, nil,
			"bad PostgreSQL is down: 1 of 3 signups since then were answered 201."},
		{"postgres=stopped", nil, tally{}, nil, "wait PostgreSQL is down: nobody has tried to sign up since then."},
	} {
		s := stack.Status{Components: []stack.ComponentStatus{{Name: "storage",
			Status: process.Status{State: process.Running}}}}
		for one := range strings.FieldsSeq(tc.broken) {
			name, state, _ := strings.Cut(one, "=")
			s.Components = append(s.Components,
				stack.ComponentStatus{Name: name, Status: process.Status{State: process.State(state)}})
		}
		v := judge(s, tc.fault, tc.since, tc.members)
		if got := v.Tone + " " + v.Broken + ": " + v.Text; got != tc.want {
			t.Errorf("%s\nwant %s", got, tc.want)
		}
	}
}
