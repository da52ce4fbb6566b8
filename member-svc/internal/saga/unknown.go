package saga

import (
	"fmt"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// ClassUnknownStep is the error class of a saga that waits for a version that knows its step.
const ClassUnknownStep = "unknown_step"

// unknown decides about a saga whose step this version does not know: a newer version is or was running, or the
// row is damaged. It stores a withdrawal or a retry in any case, so that a member can always leave. The command
// is sent by a version that knows the step, see takeUp. If there is no such version, a second retry continues
// with the last step that this version knows. Reconciliation by a version that knows the later steps then finds
// what they left behind.
func (ss Steps) unknown(s Saga, e Event, now time.Time) (Saga, []contract.Type, Outcome) {
	switch {
	case e.Kind == Withdraw && s.State.Left():
		return s, nil, Unchanged
	case e.Kind == Withdraw:
		s.Retried = false
		return handOver(s, WithdrawNeedsAttention, now)
	case e.Kind == Retried && s.handedOver():
		s.Step = len(ss) - 1
		return ss.retry(s, now)
	case e.Kind == Retried && (s.State.Open() || s.State == s.State.attention()):
		s.Retried = true
		return handOver(s, s.State.attention(), now)
	default:
		return s, nil, Refused
	}
}

// handOver starts the next generation without sending a command. The timer is due at once; versions that do not
// know the step skip it.
func handOver(s Saga, state State, now time.Time) (Saga, []contract.Type, Outcome) {
	s.Generation = min(s.Generation+1, contract.MaxGeneration)
	s, effects, outcome := settle(s, state, contract.StorageError{
		Class: ClassUnknownStep, Fingerprint: ClassUnknownStep,
		Message: fmt.Sprintf(
			"this version does not know step %d: run one that does, or retry to continue without the step", s.Step),
	}, now)
	s.DueAt = &now
	return s, effects, outcome
}

func (s Saga) handedOver() bool {
	return s.State == s.State.attention() && s.ErrorClass == ClassUnknownStep
}

// takeUp sends the command of a saga that was handed over by a version that does not know its step.
func (ss Steps) takeUp(s Saga, now time.Time) (Saga, []contract.Type, Outcome) {
	if s.DueAt == nil || now.Before(*s.DueAt) {
		return s, nil, Unchanged
	}
	state := Provisioning
	if s.State.leaving() {
		state = Withdrawing
	}
	s.RetryOpen = s.Retried
	return ss.ask(s, state, now)
}
