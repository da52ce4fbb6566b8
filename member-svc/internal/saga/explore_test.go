package saga

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// world is a saga, everything ever put on the wire, and a participant that keeps
// the rules of the Storage service. Messages stay on the wire for ever: to leave
// one undelivered is a drop, to deliver it twice a duplicate, in any order.
type world struct {
	saga    Saga
	wire    []string // "command generation" and "reply generation", sorted
	storage int64    // highest generation the participant knows
	absent  bool     // it was told to remove: final
}

const maxGeneration = 3

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// key drops what the engine never decides by: absolute times, and counters beyond use.
func (w world) key() string {
	s := w.saga
	return fmt.Sprint(s.State, s.Generation, s.ObservedGeneration, min(s.Redrives, 2), s.RetryOpen, s.DueAt != nil, s.ErrorClass, w.wire, w.storage, w.absent)
}

func (w world) send(msgs ...string) world {
	w.wire = slices.Clone(w.wire)
	for _, m := range msgs {
		if i, found := slices.BinarySearch(w.wire, m); !found {
			w.wire = slices.Insert(w.wire, i, m)
		}
	}
	return w
}

type step struct {
	from, to world
	event    Event
	outcome  Outcome
	effects  []Effect
}

// moves returns everything that can happen next.
func moves(st Step, w world) []step {
	var out []step
	decide := func(e Event, now time.Time) {
		next, effects, outcome := st.Decide(w.saga, e, now)
		to := w
		to.saga = next
		for _, f := range effects {
			if f.Type != contract.MemberSignedUp {
				to = to.send(fmt.Sprintf("%s %d", f.Type, next.Generation))
			}
		}
		out = append(out, step{w, to, e, outcome, effects})
	}
	for _, m := range w.wire {
		var name string
		var g int64
		if _, err := fmt.Sscan(m, &name, &g); err != nil {
			continue
		}
		switch contract.Type(name) {
		case st.Command, st.Compensation:
			to := w
			to.storage = max(w.storage, g)
			to.absent = w.absent || contract.Type(name) == st.Compensation && g >= w.storage
			if to.absent {
				out = append(out, step{from: w, to: to.send(fmt.Sprintf("%s %d", Deprovisioned, to.storage), fmt.Sprintf("%s %d", Rejected, to.storage))})
			} else { // it may succeed or refuse
				out = append(out, step{from: w, to: to.send(fmt.Sprintf("%s %d", Provisioned, to.storage))},
					step{from: w, to: to.send(fmt.Sprintf("%s %d", Rejected, to.storage))})
			}
		default:
			decide(Event{Kind: Kind(name), Generation: g, Error: contract.StorageError{Class: "rejected"}}, w.saga.UpdatedAt.Add(time.Second))
		}
	}
	if w.saga.DueAt != nil {
		decide(Event{Kind: TimerDue}, *w.saga.DueAt)
		decide(Event{Kind: TimerDue, Jitter: 0.9}, w.saga.OpenedAt.Add(st.GiveUpAge))
	}
	decide(Event{Kind: SignedUp}, epoch)
	decide(Event{Kind: AttemptFailed, Generation: w.saga.Generation}, epoch)
	decide(Event{Kind: Withdraw}, epoch)
	decide(Event{Kind: Retried, Actor: "ann"}, epoch)
	return slices.DeleteFunc(out, func(s step) bool { return s.to.saga.Generation > maxGeneration })
}

// explore visits every world reachable from the starts and checks every step.
func explore(t *testing.T, st Step, starts ...world) map[string][]step {
	t.Helper()
	graph := map[string][]step{}
	for queue := starts; len(queue) > 0; {
		w := queue[0]
		queue = queue[1:]
		if _, seen := graph[w.key()]; seen {
			continue
		}
		next := moves(st, w)
		graph[w.key()] = next
		for _, s := range next {
			if s.outcome != "" {
				checkStep(t, s)
			}
			queue = append(queue, s.to)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	return graph
}

func checkStep(t *testing.T, s step) {
	t.Helper()
	a, b := s.from.saga, s.to.saga
	bad := func(rule string) {
		t.Errorf("%s:\n from %+v\n event %+v, outcome %s %v\n to %+v", rule, s.from, s.event, s.outcome, s.effects, s.to)
	}
	transition := s.outcome == Advanced || s.outcome == GaveUp
	if transition != (b.Version == a.Version+1) || !transition && b.Version != a.Version {
		bad("the version counts transitions")
	}
	if b.Generation < a.Generation || b.Generation > a.Generation && s.event.Kind != Retried && s.event.Kind != Withdraw {
		bad("only operators and withdrawals raise the generation")
	}
	if b.State == Ready && a.State != Ready && (s.event.Kind != Provisioned || s.event.Generation > a.Generation) {
		bad("ready only by a provisioned reply of a generation that we sent")
	}
	if b.State == Withdrawn && a.State != Withdrawn && s.event.Kind != Deprovisioned {
		bad("withdrawn only by a deprovisioned reply")
	}
	if a.State == Withdrawn && b.State != Withdrawn {
		bad("withdrawn is final")
	}
	if (a.State == Withdrawing || a.State == WithdrawNeedsAttention) && (b.State == Ready || b.State == Provisioning || b.State == NeedsAttention) {
		bad("a withdrawal is never taken back")
	}
	if b.State.Open() && b.DueAt == nil {
		bad("an open saga has a timer")
	}
	if (s.outcome == Unchanged || s.outcome == Recorded || s.outcome == Refused) && (a != b || len(s.effects) > 0) {
		bad("nothing changes without a transition")
	}
	if s.event.Kind == Retried && a.State.Open() && a.RetryOpen && s.outcome != Unchanged {
		bad("a retry while one is open adds nothing")
	}
	if s.event.Kind == Retried && (a.State == NeedsAttention || a.State == WithdrawNeedsAttention) && b.Generation <= a.ObservedGeneration {
		bad("a retry goes above every generation seen")
	}
	if len(s.effects) > 0 && s.outcome == Redriven && s.effects[0].Type != map[bool]contract.Type{true: contract.StorageDeprovision, false: contract.StorageProvision}[b.State.leaving()] {
		bad("a timer repeats the command of the state")
	}
}

func TestEveryReachableSagaKeepsTheRules(t *testing.T) {
	st := Provision(30*time.Second, 24*time.Hour)
	s, _, _ := st.Decide(Saga{}, Event{Kind: SignedUp}, epoch)
	fresh := world{saga: s}.send(fmt.Sprintf("%s 1", st.Command))
	// The Member database was restored to an older state: Storage is ahead.
	restored := fresh.send(fmt.Sprintf("%s 2", Provisioned), fmt.Sprintf("%s 2", Rejected))
	restored.storage = 2
	graph := explore(t, st, fresh, restored)
	t.Logf("%d worlds", len(graph))
	if len(graph) < 500 {
		t.Errorf("only %d worlds explored: the model is too small to prove anything", len(graph))
	}

	// Backwards from the ends: from every world one of them can be reached, so no
	// sequence of faults strands a saga.
	ends := func(w world) bool {
		return w.saga.State == Ready || w.saga.State == Withdrawn || w.saga.Generation == maxGeneration
	}
	good := map[string]bool{}
	for changed := true; changed; {
		changed = false
		for k, steps := range graph {
			if good[k] {
				continue
			}
			if slices.ContainsFunc(steps, func(s step) bool { return ends(s.from) || good[s.to.key()] }) {
				good[k], changed = true, true
			}
		}
	}
	for k := range graph {
		if !good[k] {
			t.Fatalf("stranded: %s", k)
		}
	}
}
