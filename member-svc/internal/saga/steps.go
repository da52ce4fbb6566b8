package saga

import (
	"slices"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// Step declares one essential step of a signup: what is asked of whom, and how
// long the answer may take.
type Step struct {
	Name         string        // whom: the participant's replies are named Name.provisioned and so on
	Command      contract.Type // asks for it
	Compensation contract.Type // takes it back, for good
	// Promise is when an unanswered command counts as delayed and is sent again for
	// the first time. Later ones wait Promise × 2ⁿ with full jitter, up to RedriveCap.
	Promise    time.Duration
	RedriveCap time.Duration
	GiveUpAge  time.Duration // unanswered for so long: a person should look
}

// Steps are the essential steps of every signup, in order: each is asked for when the
// one before it is provisioned, and taken back when the one after it is. Sagas store
// the index of their step, so the list is only ever appended to.
type Steps []Step

// Provision is the step that gives a member his storage.
func Provision(promise, giveUpAge time.Duration) Step {
	return Step{
		Name: "storage", Command: contract.StorageProvision, Compensation: contract.StorageDeprovision,
		Promise: promise, RedriveCap: time.Hour, GiveUpAge: giveUpAge,
	}
}

// Delayed reports whether the open command is older than its step's promise.
func (ss Steps) Delayed(s Saga, now time.Time) bool {
	return s.State.Open() && s.Step < len(ss) && now.Sub(s.OpenedAt) > ss[s.Step].Promise
}

// Name returns the name of the saga's step; "" if only a newer version knows it.
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

// Asks returns what the step asks for in a state.
func (st Step) Asks(s State) contract.Type {
	if s.Left() {
		return st.Compensation
	}
	return st.Command
}

// due sets the next timer; an open saga's is never past the moment to give up.
func (st Step) due(s *Saga, now time.Time, wait time.Duration) {
	at := now.Add(wait)
	if end := s.OpenedAt.Add(st.GiveUpAge); s.State.Open() && at.After(end) {
		at = end
	}
	s.DueAt = &at
}
