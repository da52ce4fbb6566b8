package console

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Thresholds, the same as in the alerts.
const (
	pendingTooLong    = 900 // seconds from a signup to its storage
	lagTooLong        = 60  // seconds for which an event waits to be published
	reconciledTooLong = 3   // hours since the last reconciliation
	stalledTooLong    = 300 // seconds for which messages wait and none is acknowledged
)

// overviewView is the content of the first page.
type overviewView struct {
	wire.Overview
	Troubles []trouble
	Cards    []card
	Charts   []chart
}

// trouble is a problem that the first page shows.
type trouble struct {
	Tone, Text string
	Path, Link string // where to act; "" if that is outside the console
	Runbook    string // its section in docs/runbook.md
}

// card shows the number of sagas in a state.
type card struct {
	State string
	Count int
	About string // prefix of the count, see about
}

// states lists the states of sagas, in the order of a saga's life.
var states = []string{wire.Provisioning, wire.Ready, wire.NeedsAttention, wire.Withdrawing, wire.WithdrawNeedsAttention,
	wire.Withdrawn}

func (c *Console) overview(r *http.Request) (view, error) {
	o, err := c.api.Overview(r.Context())
	if err != nil {
		return view{}, err
	}
	v := overviewView{Overview: o, Troubles: troubles(o), Charts: []chart{
		newChart("Signups", "", o.Minutes, func(m wire.Minute) int { return m.Signups }),
		newChart("Failures", "bad", o.Minutes, func(m wire.Minute) int { return m.Failures }),
	}}
	for _, state := range states {
		v.Cards = append(v.Cards, card{state, o.Counts[state], about(o, state)})
	}
	return view{template: "overview", title: "Overview", data: v, every: 5000}, nil
}

// about returns the words before a count that is not exact, or "".
func about(o wire.Overview, state string) string {
	switch {
	case !slices.Contains(o.Estimated, state):
		return ""
	case state == wire.Ready || state == wire.Withdrawn:
		return "about "
	default:
		return "at least "
	}
}

// troubles lists the current problems, causes first.
func troubles(o wire.Overview) (found []trouble) {
	add := func(wrong bool, t trouble) {
		if wrong {
			found = append(found, t)
		}
	}
	because := "."
	if o.Breaker.Error != nil {
		because = ": " + o.Breaker.Error.Message + "."
	}
	add(o.Breaker.State == "open", trouble{"bad", "The storage provider is away" + because +
		" People can still sign up. Their storages wait, and are created automatically.",
		home + "sagas?" + query("state", wire.Provisioning), "See what waits", "ProviderAway"})
	if age := o.OldestPending; age != nil {
		add(*age > pendingTooLong, trouble{"bad", "The oldest signup has waited for its storage for " + span(*age) +
			". It should take seconds.",
			home + "sagas?" + query("state", wire.Provisioning, "delayed", "true"), "See what waits",
			"SignupsPendingTooLong"})
	}
	failed := o.Counts[wire.NeedsAttention] + o.Counts[wire.WithdrawNeedsAttention]
	add(failed > 0, trouble{"bad",
		cmp.Or(about(o, wire.NeedsAttention), about(o, wire.WithdrawNeedsAttention)) + plural(failed, "signup") +
			" failed for good or got no answer for too long. An operator has to decide.",
		home + "failures", "See the failures", "SagasNeedAttention"})
	for _, lane := range o.Outbox {
		add(lane.Seconds > lagTooLong, trouble{Tone: "bad", Runbook: "OutboxLag",
			Text: fmt.Sprintf("Events of the %s lane have waited for %s. They are safe in the database.", lane.Lane,
				span(lane.Seconds))})
	}
	for _, c := range o.Consumers {
		name, messages := fmt.Sprintf("The consumer %s of %s", c.Consumer, c.Stream), plural(c.Messages, "message")
		add(c.State == "paused", trouble{Tone: "bad", Runbook: "ConsumerPaused",
			Text: name + " is paused" + until(c.PausedUntil) + " and holds back " + messages + ". They are safe."})
		add(c.State == "missing", trouble{Tone: "wait", Runbook: "ConsumerPaused",
			Text: name + " does not exist. The service that uses it creates it again."})
		add(c.State == "delivering" && c.Stalled > stalledTooLong, trouble{Tone: "bad", Runbook: "ConsumerStalled",
			Text: name + " has acknowledged nothing for " + span(c.Stalled) + ". Waiting: " + messages + "."})
	}
	add(o.DeadEvents > 0, trouble{"bad", plural(int(o.DeadEvents), "event") +
		" could not be published: NATS refuses the content.",
		home + "dead", "See the dead events", "DeadEvents"})
	add(o.Stranded > 0, trouble{"bad", plural(o.Stranded, "member") +
		" had lost a storage that was reported ready. The command was sent again.", "", "", "Stranded"})
	add(o.Orphans > 0, trouble{Tone: "wait", Runbook: "Orphans",
		Text: plural(o.Orphans, "storage") + " without a member: only reported, never changed."})
	if last := o.ReconciledAt; last != nil {
		age := o.At.Sub(*last)
		add(age > reconciledTooLong*time.Hour, trouble{"wait", "The last reconciliation ended " + span(age.Seconds()) +
			" ago. Stranded members go unnoticed until the next one.", "", "", "ReconciliationStale"})
	}
	return found
}

// until formats the end of a pause, or returns "" if it is unknown.
func until(at *time.Time) string {
	if at == nil {
		return ""
	}
	return " until " + at.UTC().Format("2006-01-02 15:04 MST")
}
