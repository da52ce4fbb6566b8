package saga

import (
	"fmt"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// Error classes that the engine itself gives; others come with a rejection.
const (
	ClassGaveUp          = "gave_up"
	ClassGenerationAhead = "generation_ahead"
)

// Step declares one essential step of a signup: what is asked of whom, and how
// long the answer may take.
type Step struct {
	Name         string
	Command      contract.Type // asks for it
	Compensation contract.Type // takes it back
	// Promise is when an unanswered command counts as delayed and is sent again for
	// the first time. Later ones wait Promise × 2ⁿ with full jitter, up to RedriveCap.
	Promise    time.Duration
	RedriveCap time.Duration
	GiveUpAge  time.Duration // unanswered for so long: a person should look
}

// Provision is the step that gives a member his storage.
func Provision(promise, giveUpAge time.Duration) Step {
	return Step{
		Name: "storage", Command: contract.StorageProvision, Compensation: contract.StorageDeprovision,
		Promise: promise, RedriveCap: time.Hour, GiveUpAge: giveUpAge,
	}
}

// Delayed reports whether the open command is older than the promise.
func (st Step) Delayed(s Saga, now time.Time) bool {
	return s.State.Open() && now.Sub(s.OpenedAt) > st.Promise
}

// Decide applies one event to a saga and says what to publish. The saga returned
// is the one given unless the outcome is Advanced, GaveUp or Redriven.
func (st Step) Decide(s Saga, e Event, now time.Time) (Saga, []Effect, Outcome) {
	switch e.Kind {
	case SignedUp:
		if s.Version != 0 {
			return s, nil, Unchanged
		}
		s.CreatedAt = now
		next, effects, outcome := st.open(s, Provisioning, now)
		return next, append(effects, Effect{contract.MemberSignedUp}), outcome
	case Provisioned, Rejected, Deprovisioned:
		return st.reply(s, e, now)
	case TimerDue:
		return st.timer(s, e.Jitter, now)
	case Retried:
		return st.retry(s, now)
	case Withdraw:
		return st.withdraw(s, now)
	default:
		return s, nil, Recorded
	}
}

func (st Step) reply(s Saga, e Event, now time.Time) (Saga, []Effect, Outcome) {
	ahead := s.ObservedGeneration > s.Generation
	switch {
	case s.State == Withdrawn && e.Kind == Deprovisioned, s.State == Ready && e.Kind == Provisioned && e.Generation <= s.Generation:
		return s, nil, Unchanged
	case s.State == Withdrawn:
		return s, nil, Recorded
	case e.Generation > s.Generation:
		if e.Generation <= s.ObservedGeneration {
			return s, nil, Unchanged
		}
		s.ObservedGeneration = e.Generation
		return settle(s, s.State.attention(), contract.StorageError{
			Class: ClassGenerationAhead, Fingerprint: ClassGenerationAhead,
			Message: fmt.Sprintf("a reply of generation %d arrived, ours is %d: was the Member database restored?", e.Generation, s.Generation),
		}, now)
	case e.Kind == Provisioned && !ahead && (s.State == Provisioning || s.State == NeedsAttention):
		return settle(s, Ready, contract.StorageError{}, now)
	case e.Kind == Deprovisioned && !ahead && s.State.leaving():
		return settle(s, Withdrawn, contract.StorageError{}, now)
	case e.Kind == Rejected && e.Generation == s.Generation && (s.State.Open() || s.ErrorClass == ClassGaveUp):
		return settle(s, s.State.attention(), e.Error, now)
	case e.Kind == Rejected && e.Generation == s.Generation && s.State == s.State.attention():
		return s, nil, Unchanged
	default:
		return s, nil, Recorded
	}
}

func (st Step) timer(s Saga, jitter float64, now time.Time) (Saga, []Effect, Outcome) {
	if s.DueAt == nil || now.Before(*s.DueAt) {
		return s, nil, Unchanged
	}
	if s.State.Open() && now.Sub(s.OpenedAt) >= st.GiveUpAge {
		next, _, _ := settle(s, s.State.attention(), contract.StorageError{
			Class: ClassGaveUp, Fingerprint: ClassGaveUp, Message: fmt.Sprintf("no answer within %s", st.GiveUpAge),
		}, now)
		st.due(&next, now, time.Duration(jitter*float64(st.RedriveCap))) // a label, not an end: we go on asking
		return next, nil, GaveUp
	}
	s.Redrives++
	wait := st.RedriveCap
	if s.Redrives < 32 { // beyond, the shift would overflow and the cap holds anyway
		wait = min(wait, st.Promise<<s.Redrives)
	}
	st.due(&s, now, time.Duration(jitter*float64(wait)))
	s.CommandedAt, s.UpdatedAt = now, now
	return s, []Effect{{st.command(s.State)}}, Redriven
}

func (st Step) retry(s Saga, now time.Time) (Saga, []Effect, Outcome) {
	switch {
	case s.State.Open() && s.RetryOpen:
		return s, nil, Unchanged
	case s.State == NeedsAttention:
		s.RetryOpen = true
		return st.open(s, Provisioning, now)
	case s.State == WithdrawNeedsAttention:
		s.RetryOpen = true
		return st.open(s, Withdrawing, now)
	default:
		return s, nil, Refused
	}
}

func (st Step) withdraw(s Saga, now time.Time) (Saga, []Effect, Outcome) {
	if s.State.leaving() || s.State == Withdrawn {
		return s, nil, Unchanged
	}
	s.RetryOpen = false
	return st.open(s, Withdrawing, now)
}

// open starts the next generation: above everything sent, and everything seen.
func (st Step) open(s Saga, state State, now time.Time) (Saga, []Effect, Outcome) {
	s.State = state
	s.Generation = max(s.Generation, s.ObservedGeneration) + 1
	s.Version++
	s.Redrives = 0
	s.ErrorClass, s.ErrorMessage, s.ErrorFingerprint = "", "", ""
	s.OpenedAt, s.CommandedAt, s.UpdatedAt = now, now, now
	st.due(&s, now, st.Promise)
	return s, []Effect{{st.command(state)}}, Advanced
}

// due sets the next timer; an open saga's is never past the moment to give up.
func (st Step) due(s *Saga, now time.Time, wait time.Duration) {
	at := now.Add(wait)
	if end := s.OpenedAt.Add(st.GiveUpAge); s.State.Open() && at.After(end) {
		at = end
	}
	s.DueAt = &at
}

func (st Step) command(s State) contract.Type {
	if s.leaving() {
		return st.Compensation
	}
	return st.Command
}

func settle(s Saga, state State, why contract.StorageError, now time.Time) (Saga, []Effect, Outcome) {
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
