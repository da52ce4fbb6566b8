package saga

import (
	"slices"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// Step declares one essential step of a signup: its commands and how long the reply may take.
type Step struct {
	Name         string        // the participant; replies are of type Name.provisioned and so on
	Command      contract.Type // asks the participant for the step
	Compensation contract.Type // takes the step back, for good
	// Promise is how long a command may be unanswered before the signup counts as delayed and the command is
	// sent again. Later re-drives wait a random time of at most Promise × 2ⁿ, capped at RedriveCap.
	Promise    time.Duration
	RedriveCap time.Duration
	GiveUpAge  time.Duration // unanswered for this long: operators are shown the signup
}

// Steps are the essential steps of every signup, in order. A step is requested once the previous one is
// provisioned, and taken back once the next one is. Sagas store the index of their step, so new steps may only
// be appended.
type Steps []Step

// Provision returns the step that gives a member their storage.
func Provision(promise, giveUpAge time.Duration) Step {
	return Step{
		Name: "storage", Command: contract.StorageProvision, Compensation: contract.StorageDeprovision,
		Promise: promise, RedriveCap: time.Hour, GiveUpAge: giveUpAge,
	}
}

// Delayed reports whether the current command has been unanswered for longer than its step's promise.
func (ss Steps) Delayed(s Saga, now time.Time) bool {
	return s.State.Open() && s.Step < len(ss) && now.Sub(s.OpenedAt) > ss[s.Step].Promise
}

// Name returns the name of the saga's step, or "" if only a newer version knows the step.
func (ss Steps) Name(s Saga) string {
	if s.Step < len(ss) {
		return ss[s.Step].Name
	}
	return ""
}

// index returns the index of the step with this name, or -1.
func (ss Steps) index(name string) int {
	return slices.IndexFunc(ss, func(st Step) bool { return st.Name == name })
}

// Asks returns the command that the step sends in a state.
func (st Step) Asks(s State) contract.Type {
	if s.Left() {
		return st.Compensation
	}
	return st.Command
}

// due sets the next timer. In an open saga the timer is never later than the give-up age.
func (st Step) due(s *Saga, now time.Time, wait time.Duration) {
	at := now.Add(wait)
	if end := s.OpenedAt.Add(st.GiveUpAge); s.State.Open() && at.After(end) {
		at = end
	}
	s.DueAt = &at
}
