package faultscreen

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/internal/process"
	"github.com/signup-saga/signup-saga/devstack/internal/stack"
)

// kind describes a component: its name in a sentence, and what its loss means.
type kind struct{ Label, Loss string }

var kinds = map[string]kind{
	"postgres": {"PostgreSQL", "Nobody can sign up: it holds all signups."},
	"nats":     {"NATS", "Signups wait for their storage."},
	"smtp":     {"the mail server", "Welcome mails wait."},
	"storage":  {"the Storage service", "Signups wait for their storage."},
	"member":   {"the Member service", "Nobody can sign up: it accepts the signups."},
}

// kindOf returns the kind of a component. The first part of the component's name is the kind's key.
func kindOf(component string) kind {
	name, number, _ := strings.Cut(component, "-")
	return kind{strings.TrimSpace(kinds[name].Label + " " + number), kinds[name].Loss}
}

// mode is a behaviour of the provider.
type mode struct{ Name, Title, Means string }

var modes = []mode{
	{"none", "works", "Works normally."},
	{"outage", "is away", "Every call fails. Signups wait and use up no attempts."},
	{"slow", "is slow", "Answers after the latency."},
	{"flaky", "is flaky", "Some calls fail, half of them after the work was done."},
	{"reject", "refuses", "Refuses for good: an operator sees why and retries in the console."},
	{"hang", "hangs", "Never answers. Calls time out."},
	{"throttle", "throttles", "Asks every caller to retry after the latency."},
}

// verdict is a sentence about the state of signups.
type verdict struct{ Tone, Broken, Text string }

// judge says what is broken, and what happened to the people who signed up since. The provider's fault and the
// counts of all members by state are nil if unknown.
func judge(s stack.Status, fault *wire.Fault, since tally, members map[string]int) verdict {
	var broken []string
	for _, c := range s.Components {
		switch c.State {
		case process.Running:
		case process.Paused:
			broken = append(broken, kindOf(c.Name).Label+" is paused")
		default:
			broken = append(broken, kindOf(c.Name).Label+" is down")
		}
	}
	for _, m := range modes[1:] {
		if fault != nil && m.Name == fault.Mode && fault.Probability > 0 {
			broken = append(broken, "the provider "+m.Title)
		}
	}
	v := verdict{Tone: "good", Broken: cmp.Or(strings.Join(broken, ", "), "everything runs")}
	v.Broken = strings.ToUpper(v.Broken[:1]) + v.Broken[1:]
	text := "nobody has tried to sign up since then"
	if tried := since.Accepted + since.Failed; tried > 0 {
		text = fmt.Sprintf("%d of %d signups since then were answered 201", since.Accepted, tried)
	}
	waiting, stuck := members[wire.Provisioning], members[wire.NeedsAttention]
	if waiting > 0 {
		text += fmt.Sprintf("; %d wait for their storage", waiting)
	}
	if stuck > 0 {
		text += fmt.Sprintf("; %d need an operator", stuck)
	}
	switch {
	case since.Failed > 0:
		v.Tone = "bad"
	case members == nil || waiting+stuck > 0:
		v.Tone = "wait"
	default:
		text += "; nobody waits"
	}
	v.Text = text + "."
	return v
}
