package saga

import (
	"fmt"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// ClassGaveUp is the error class of a saga that was unanswered until the give-up age. The engine sets only this
// class and ClassUnknownStep; all others come with a rejection.
const ClassGaveUp = "gave_up"

// Decide applies one event to a saga. It returns the next saga, and the types of the events to publish in the
// transaction that stores it. Unless the outcome is Advanced, GaveUp or Redriven, the next saga is the given one;
// only counters out of bounds are clamped.
func (ss Steps) Decide(s Saga, e Event, now time.Time) (Saga, []contract.Type, Outcome) {
	s = s.bounded()
	if s.Step >= len(ss) {
		return ss.unknown(s, e, now)
	}
	switch e.Kind {
	case SignedUp:
		if s.Version != 0 {
			return s, nil, Unchanged
		}
		s.CreatedAt = now
		next, effects, outcome := ss.begin(s, Provisioning, now)
		return next, append(effects, contract.MemberSignedUp), outcome
	case Provisioned, Rejected, Deprovisioned:
		return ss.reply(s, e, now)
	case TimerDue:
		if s.handedOver() {
			return ss.takeUp(s, now)
		}
		return ss[s.Step].timer(s, e.Jitter, now)
	case Retried:
		return ss.retry(s, now)
	case Withdraw:
		return ss.withdraw(s, now)
	default:
		return s, nil, Recorded
	}
}

// versionRoom is how far bounded sets back a version that has reached its maximum. Every transition still
// changes the version, so a compare-and-swap cannot match a saga that has moved on.
const versionRoom = 1_000_000

// bounded clamps counters that a forged message or a manual edit has pushed out of range. Otherwise the
// database or the contract would reject every further change, and the member could not even leave.
func (s Saga) bounded() Saga {
	s.Generation = min(s.Generation, contract.MaxGeneration)
	if s.Version >= contract.MaxVersion {
		s.Version = contract.MaxVersion - versionRoom
	}
	s.Redrives = min(max(s.Redrives, 0), contract.MaxAttempt)
	return s
}

func (ss Steps) reply(s Saga, e Event, now time.Time) (Saga, []contract.Type, Outcome) {
	step := ss.index(e.Step)
	switch {
	case step < 0, e.Generation > s.Generation: // no command asked for this
		return s, nil, Recorded
	case s.knows(e, step):
		return s, nil, Unchanged
	case s.State == Withdrawn:
		return s, nil, Recorded
	case step != s.Step:
		return s, nil, Recorded
	case e.Kind == Provisioned && (s.State == Provisioning || s.State == NeedsAttention):
		return ss.forward(s, now)
	case e.Kind == Deprovisioned && s.State.leaving():
		return ss.backward(s, now)
	case e.Kind == Rejected && e.Generation == s.Generation && (s.State.Open() || s.ErrorClass == ClassGaveUp):
		return settle(s, s.State.attention(), e.Error, now)
	case e.Kind == Rejected && e.Generation == s.Generation && s.State == s.State.attention():
		return s, nil, Unchanged
	default:
		return s, nil, Recorded
	}
}

// knows reports whether the saga already reflects what a reply about a step says.
func (s Saga) knows(e Event, step int) bool {
	switch {
	case s.State == Withdrawn:
		return e.Kind == Deprovisioned
	case s.State.leaving():
		return e.Kind == Deprovisioned && step > s.Step
	default:
		return e.Kind == Provisioned && (step < s.Step || step == s.Step && s.State == Ready)
	}
}

// forward moves to the next step. An operator's retry stays open until the last step is provisioned.
func (ss Steps) forward(s Saga, now time.Time) (Saga, []contract.Type, Outcome) {
	if s.Step == len(ss)-1 {
		return settle(s, Ready, contract.StorageError{}, now)
	}
	s.Step++
	return ss.ask(s, Provisioning, now)
}

// backward moves to the previous step. Only steps that were started are taken back, the newest first, so that
// no step is removed while a later one may depend on it.
func (ss Steps) backward(s Saga, now time.Time) (Saga, []contract.Type, Outcome) {
	if s.Step == 0 {
		return settle(s, Withdrawn, contract.StorageError{}, now)
	}
	s.Step--
	return ss.ask(s, Withdrawing, now)
}

func (st Step) timer(s Saga, jitter float64, now time.Time) (Saga, []contract.Type, Outcome) {
	if s.DueAt == nil || now.Before(*s.DueAt) {
		return s, nil, Unchanged
	}
	if s.State.Open() && now.Sub(s.OpenedAt) >= st.GiveUpAge {
		next, _, _ := settle(s, s.State.attention(), contract.StorageError{
			Class: ClassGaveUp, Fingerprint: ClassGaveUp, Message: fmt.Sprintf("no answer within %s", st.GiveUpAge),
		}, now)
		st.due(&next, now, time.Duration(jitter*float64(st.RedriveCap))) // only a label: re-drives go on
		return next, nil, GaveUp
	}
	s.Redrives++
	wait := st.RedriveCap
	if s.Redrives < 32 { // a larger shift would overflow, and the cap applies anyway
		wait = min(wait, st.Promise<<s.Redrives)
	}
	st.due(&s, now, time.Duration(jitter*float64(wait)))
	s.CommandedAt = now
	return s, []contract.Type{st.Asks(s.State)}, Redriven
}

func (ss Steps) retry(s Saga, now time.Time) (Saga, []contract.Type, Outcome) {
	switch {
	case s.State.Open() && s.RetryOpen:
		return s, nil, Unchanged
	case s.State == NeedsAttention:
		s.RetryOpen, s.Retried = true, true
		return ss.begin(s, Provisioning, now)
	case s.State == WithdrawNeedsAttention:
		s.RetryOpen, s.Retried = true, true
		return ss.begin(s, Withdrawing, now)
	default:
		return s, nil, Refused
	}
}

func (ss Steps) withdraw(s Saga, now time.Time) (Saga, []contract.Type, Outcome) {
	if s.State.Left() {
		return s, nil, Unchanged
	}
	s.RetryOpen, s.Retried = false, false
	return ss.begin(s, Withdrawing, now)
}

// begin starts the next generation. At its maximum the generation is reused: participants accept a removal of
// any generation, so the member can still leave.
func (ss Steps) begin(s Saga, state State, now time.Time) (Saga, []contract.Type, Outcome) {
	s.Generation = min(s.Generation+1, contract.MaxGeneration)
	return ss.ask(s, state, now)
}

// ask sends the command of the current step for the first time.
func (ss Steps) ask(s Saga, state State, now time.Time) (Saga, []contract.Type, Outcome) {
	s.State = state
	s.Version++
	s.Redrives = 0
	s.ErrorClass, s.ErrorMessage, s.ErrorFingerprint = "", "", ""
	s.OpenedAt, s.CommandedAt, s.UpdatedAt = now, now, now
	st := ss[s.Step]
	st.due(&s, now, st.Promise)
	return s, []contract.Type{st.Asks(state)}, Advanced
}

func settle(s Saga, state State, why contract.StorageError, now time.Time) (Saga, []contract.Type, Outcome) {
	s.State, s.ErrorClass, s.ErrorMessage, s.ErrorFingerprint = state, why.Class, why.Message, why.Fingerprint
	s.Version++
	s.RetryOpen, s.DueAt, s.UpdatedAt = false, nil, now
	return s, nil, Advanced
}

func (s State) attention() State {
	if s.leaving() {
		return WithdrawNeedsAttention
	}
	return NeedsAttention
}
