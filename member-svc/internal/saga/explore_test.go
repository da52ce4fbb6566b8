package saga

import (
	"slices"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// world is a saga, every message ever sent, and participants that follow the rules of the Storage service.
// Messages stay on the wire for ever: one that is not delivered was dropped, one that is delivered twice is a
// duplicate, and any order is possible. A participant that crashes before or after its reply is modelled by a
// dropped message or reply. A member-svc that crashes has stored both the saga and its commands, or neither.
type world struct {
	saga         Saga
	wire         uint64 // one bit per message, see bit
	participants [2]participant
}

// participant is what a participant knows of the member. Removal is final.
type participant struct {
	exists, removed bool
}

// The messages between the engine and a participant.
const (
	command = iota
	compensation
	provisioned
	rejected
	deprovisioned
	messageKinds
)

// generations bounds the model. A test explores fewer generations; a proof that a world heals may use all of
// them.
const generations = 6

func bit(step, message int, generation int64) uint64 {
	return 1 << ((step*messageKinds+message)*generations + int(generation) - 1)
}

var (
	epoch   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	replies = map[int]Kind{provisioned: Provisioned, rejected: Rejected, deprovisioned: Deprovisioned}
)

// identity leaves out what the engine never decides by: absolute times and counters.
type identity struct {
	state            State
	step             int
	generation       int64
	retryOpen, timer bool
	errorClass       string
	wire             uint64
	participants     [2]participant
}

func (w world) identity() identity {
	s := w.saga
	return identity{s.State, s.Step, s.Generation, s.RetryOpen, s.DueAt != nil, s.ErrorClass, w.wire, w.participants}
}

// move is one thing that can happen. Moves of participants have no outcome.
type move struct {
	from, to world
	event    Event
	effects  []contract.Type
	outcome  Outcome
}

// moves returns everything that can happen next. Events caused by people are included only if people is set.
func (w world) moves(ss Steps, people bool) []move {
	var out []move
	decide := func(now time.Time, e Event) {
		next, effects, outcome := ss.Decide(w.saga, e, now)
		to := w
		to.saga = next
		for _, f := range effects {
			to.wire |= sent(ss, f, next.Generation)
		}
		out = append(out, move{w, to, e, effects, outcome})
	}
	for step := range ss {
		for g := int64(1); g <= generations; g++ {
			for message := range messageKinds {
				switch {
				case w.wire&bit(step, message, g) == 0:
				case message == command || message == compensation:
					out = append(out, w.ask(step, message, g)...)
				default:
					decide(w.saga.UpdatedAt.Add(time.Second), Event{Kind: replies[message], Step: ss[step].Name,
						Generation: g, Error: contract.StorageError{Class: "rejected"}})
				}
			}
		}
	}
	if w.saga.DueAt != nil {
		decide(*w.saga.DueAt, Event{Kind: TimerDue})
		decide(w.saga.OpenedAt.Add(ss[w.saga.Step].GiveUpAge), Event{Kind: TimerDue, Jitter: 0.9})
	}
	decide(epoch, Event{Kind: SignedUp})
	decide(epoch, Event{Kind: AttemptFailed, Generation: w.saga.Generation})
	if people {
		decide(epoch, Event{Kind: Withdraw})
		decide(epoch, Event{Kind: Retried, Actor: "ann"})
	}
	return out
}

func sent(ss Steps, event contract.Type, generation int64) uint64 {
	for i, st := range ss {
		switch event {
		case st.Command:
			return bit(i, command, generation)
		case st.Compensation:
			return bit(i, compensation, generation)
		}
	}
	return 0
}

// ask delivers a command: the participant carries it out, or rejects it, and replies with the command's
// generation. A removal is final: no later command undoes it.
func (w world) ask(step, message int, generation int64) []move {
	answer := func(reply int, change func(*participant)) move {
		to := w
		change(&to.participants[step])
		to.wire |= bit(step, reply, generation)
		return move{from: w, to: to}
	}
	same := func(*participant) {}
	p := w.participants[step]
	switch {
	case p.removed && message == command:
		return []move{answer(rejected, same)}
	case p.removed:
		return []move{answer(deprovisioned, same), answer(rejected, same)}
	case message == command:
		return []move{answer(provisioned, func(p *participant) { p.exists = true }), answer(rejected, same)}
	default:
		return []move{answer(deprovisioned, func(p *participant) { p.exists, p.removed = false, true }),
			answer(rejected, same)}
	}
}

// legal lists all transitions of sagas with several steps.
var legal = map[State][]State{
	Provisioning:           {Provisioning, Ready, NeedsAttention, Withdrawing},
	Ready:                  {Withdrawing},
	NeedsAttention:         {NeedsAttention, Provisioning, Ready, Withdrawing},
	Withdrawing:            {Withdrawing, WithdrawNeedsAttention, Withdrawn},
	WithdrawNeedsAttention: {WithdrawNeedsAttention, Withdrawing, Withdrawn},
	Withdrawn:              {},
}

// check returns the rule that a move breaks, or "".
func (m move) check(ss Steps) string {
	a, b := m.from.saga, m.to.saga
	current := m.event.Step == ss[a.Step].Name
	ahead := m.event.Generation > a.Generation
	transition := m.outcome == Advanced || m.outcome == GaveUp
	switch {
	case transition != (b.Version == a.Version+1) || !transition && b.Version != a.Version:
		return "the version counts transitions"
	case transition && !slices.Contains(legal[a.State], b.State):
		return "only legal transitions"
	case (m.outcome == Unchanged || m.outcome == Recorded || m.outcome == Refused) && (a != b || len(m.effects) > 0):
		return "nothing changes without a transition"
	case b.Generation < a.Generation || b.Generation > a.Generation && m.event.Kind != Retried &&
		m.event.Kind != Withdraw:
		return "only people raise the generation"
	case ahead && (a != b || len(m.effects) > 0):
		return "what was never commanded changes nothing"
	case m.event.Kind == Retried && a.RetryOpen && m.outcome != Unchanged:
		return "a retry while one is open adds nothing"
	case m.event.Kind == Retried && a.State == a.State.attention() && m.outcome != Advanced:
		return "what needs attention can be retried"
	case m.event.Kind == Withdraw && (a.State.Left() != (m.outcome == Unchanged) || !b.State.Left()):
		return "a member can always leave, once"
	case m.event.Kind == Provisioned && current && !ahead && !a.State.Left() && a.State != Ready && b.State != Ready &&
		b.Step != a.Step+1:
		return "a success heals, however late"
	case b.State == Ready && a.State != Ready && (m.event.Kind != Provisioned || b.Step != len(ss)-1):
		return "ready only by the reply of the last step"
	case b.State.Open() && b.DueAt == nil, b.ErrorClass == ClassGaveUp && b.DueAt == nil:
		return "who waits has a timer"
	case (m.outcome == Redriven || transition && b.State.Open()) &&
		(len(m.effects) != 1 || m.effects[0] != ss[b.Step].Asks(b.State)):
		return "the command of state and step is sent"
	}
	for i := range ss {
		begun := m.to.wire&(bit(i, command, generations+1)-bit(i, command, 1)) != 0
		if b.State == Ready && a.State != Ready && !m.to.participants[i].exists && !m.to.participants[i].removed {
			return "ready only when everything was provisioned"
		}
		if b.State == Withdrawn && begun && !m.to.participants[i].removed {
			return "withdrawn only when everything begun was taken back"
		}
		if i > 0 && b.State.leaving() && i <= b.Step-1 && m.to.participants[i].removed &&
			!m.to.participants[b.Step].removed {
			return "taken back in reverse order"
		}
	}
	return ""
}

// explore visits every world that is reachable from the starts and checks every move. It returns the worlds
// without the messages on the wire, and the transitions seen.
func explore(
	t *testing.T, ss Steps, explored int64, atLeast int, starts ...world,
) (map[identity]world, map[[2]State]bool) {
	t.Helper()
	seen, bare, transitions := map[identity]bool{}, map[identity]world{}, map[[2]State]bool{}
	visit := func(w world) bool {
		id := w.identity()
		if seen[id] || w.saga.Generation > explored {
			return false
		}
		seen[id] = true
		w.wire = 0
		bare[w.identity()] = w
		return true
	}
	queue := slices.DeleteFunc(starts, func(w world) bool { return !visit(w) })
	for len(queue) > 0 {
		w := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, m := range w.moves(ss, true) {
			if m.outcome != "" {
				if rule := m.check(ss); rule != "" {
					t.Fatalf("%s:\n from %+v\n event %+v, outcome %s %v\n to %+v", rule, m.from, m.event, m.outcome,
						m.effects, m.to)
				}
			}
			if m.outcome == Advanced || m.outcome == GaveUp {
				transitions[[2]State{m.from.saga.State, m.to.saga.State}] = true
			}
			if visit(m.to) {
				queue = append(queue, m.to)
			}
		}
	}
	t.Logf("%d worlds, %d without their messages", len(seen), len(bare))
	if len(seen) < atLeast {
		t.Error("the model is too small to prove anything")
	}
	return bare, transitions
}

// heals reports whether a world can still reach ready or withdrawn by timers, participants and the messages on
// the wire alone.
func (w world) heals(ss Steps) bool {
	seen := map[identity]bool{}
	for queue := []world{w}; len(queue) > 0; {
		w, queue = queue[len(queue)-1], queue[:len(queue)-1]
		if w.saga.State == Ready || w.saga.State == Withdrawn {
			return true
		}
		if seen[w.identity()] {
			continue
		}
		seen[w.identity()] = true
		for _, m := range w.moves(ss, false) {
			queue = append(queue, m.to)
		}
	}
	return false
}

// by returns the world after an event.
func (w world) by(ss Steps, kind Kind) world {
	var effects []contract.Type
	w.saga, effects, _ = ss.Decide(w.saga, Event{Kind: kind}, epoch)
	for _, f := range effects {
		w.wire |= sent(ss, f, w.saga.Generation)
	}
	return w
}

func TestEveryReachableSagaKeepsTheRules(t *testing.T) {
	all := map[[2]State]bool{}
	for name, tc := range map[string]struct {
		steps    Steps
		explored int64 // generations
		worlds   int
	}{"one step": {one, 4, 4500}, "two steps": {two, 3, 16000}} {
		t.Run(name, func(t *testing.T) {
			fresh := world{}.by(tc.steps, SignedUp)
			// The Member database was restored to an older state: a participant is ahead of it by a retry or by
			// a withdrawal, or has carried out a command that the saga has yet to send.
			retried, removed, done := fresh, fresh, fresh
			retried.participants[0] = participant{exists: true}
			retried.wire |= bit(0, provisioned, 1) | bit(0, provisioned, 2) | bit(0, rejected, 2)
			removed.participants[0] = participant{removed: true}
			removed.wire |= bit(0, deprovisioned, 2)
			last := len(tc.steps) - 1
			done.participants[last] = participant{exists: true}
			done.wire |= bit(last, provisioned, 1)
			bare, transitions := explore(t, tc.steps, tc.explored, tc.worlds, fresh, retried, removed, done)
			for seen := range transitions {
				all[seen] = true
			}
			for id, w := range bare {
				checkHeals(t, tc.steps, id, w)
				if w.saga.Step > 0 {
					checkHandOver(t, tc.steps, id, w)
				}
			}
		})
	}
	for from, states := range legal {
		for _, to := range states {
			if !all[[2]State{from, to}] {
				t.Errorf("never seen: %s → %s", from, to)
			}
		}
	}
}

// checkHeals checks that an open saga heals without help, that one that needs attention heals after a retry,
// and that one whose storage was removed, so that it can never be provisioned, can still be left.
func checkHeals(t *testing.T, ss Steps, id identity, w world) {
	t.Helper()
	gone := slices.ContainsFunc(w.participants[:], func(p participant) bool { return p.removed })
	if w.saga.State == w.saga.State.attention() && w.saga.ErrorClass != ClassGaveUp {
		if w.saga.DueAt != nil {
			t.Fatalf("a definite answer is not asked for again: %+v", id)
		}
		w = w.by(ss, Retried)
	}
	if gone && !w.saga.State.Left() {
		w = w.by(ss, Withdraw)
	}
	if !w.heals(ss) {
		t.Fatalf("stuck: %+v", id)
	}
}

// checkHandOver checks a version that does not know the step: members can still leave, and operators can retry
// what needs attention or is not progressing. A version that knows the step continues at once; without one, a
// second retry continues with the known steps.
func checkHandOver(t *testing.T, ss Steps, id identity, w world) {
	t.Helper()
	older := ss[:w.saga.Step]
	for _, kind := range []Kind{Withdraw, Retried} {
		next := w.by(older, kind)
		if next.saga == w.saga {
			if kind == Withdraw && !w.saga.State.Left() || kind == Retried && w.saga.State != Ready {
				t.Fatalf("%s is refused: %+v", kind, id)
			}
			continue
		}
		removed := next.participants[0].removed || next.participants[1].removed
		if next.wire != w.wire || kind == Withdraw && !next.saga.State.Left() {
			t.Fatalf("%s: %+v", kind, next.saga)
		}
		taken, effects, outcome := ss.Decide(next.saga, Event{Kind: TimerDue}, *next.saga.DueAt)
		if outcome != Advanced || len(effects) != 1 || effects[0] != ss[w.saga.Step].Asks(next.saga.State) ||
			taken.RetryOpen != (kind == Retried) {
			t.Fatalf("%s, then taken up: %s %v %+v", kind, outcome, effects, taken)
		}
		alone := next.by(older, Retried)
		if !alone.saga.State.Open() || alone.saga.Step != len(older)-1 {
			t.Fatalf("%s, then a second retry: %+v", kind, alone.saga)
		}
		if removed && !next.saga.State.Left() {
			continue // after a removal the member can only leave
		}
		if !next.heals(ss) || !alone.heals(older) {
			t.Fatalf("stuck after %s: %+v", kind, id)
		}
	}
}
