package saga

import (
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// State is where a saga stands.
type State string

// The states. The database repeats them as a CHECK constraint.
const (
	Provisioning           State = "provisioning"
	Ready                  State = "ready"
	NeedsAttention         State = "needs_attention"
	Withdrawing            State = "withdrawing"
	WithdrawNeedsAttention State = "withdraw_needs_attention"
	Withdrawn              State = "withdrawn"
)

// States lists every state.
var States = []State{Provisioning, Ready, NeedsAttention, Withdrawing, WithdrawNeedsAttention, Withdrawn}

// Open reports whether a command is out whose answer is awaited.
func (s State) Open() bool { return s == Provisioning || s == Withdrawing }

func (s State) leaving() bool { return s == Withdrawing || s == WithdrawNeedsAttention }

// Left reports whether the member has left, even if not everything is removed yet.
func (s State) Left() bool { return s.leaving() || s == Withdrawn }

// Public is the state as the member sees it: a withdrawal that needs an operator
// is still a withdrawal to him.
func (s State) Public() State {
	if s == WithdrawNeedsAttention {
		return Withdrawing
	}
	return s
}

// Settled reports whether a client may stop asking: nothing moves by itself soon.
func (s State) Settled() bool { return !s.Public().Open() }

// Saga is one signup's progress, and at the same time one row of signup_saga.
type Saga struct {
	ID, MemberID, SignupID string
	State                  State
	Step                   int        // index of the step that is asked, or was asked last
	Generation             int64      // of the newest command; starts at 1
	Version                int64      // transitions so far; the compare-and-swap guard
	Redrives               int        // times the timer repeated the current command
	RetryOpen              bool       // the current command is an operator's retry
	Retried                bool       // an operator retried what is wanted now: a failure is one again
	OpenedAt               time.Time  // when the current command was first sent; the give-up age counts from here
	CommandedAt            time.Time  // when the newest command was put into the outbox
	DueAt                  *time.Time // when the timer looks again; nil: nothing is awaited
	ErrorClass             string     // why a person is needed, or ""
	ErrorMessage           string
	ErrorFingerprint       string    // equal for errors of one kind
	CreatedAt, UpdatedAt   time.Time // the latter: when the version moved
}

// Kind names what happened to a saga.
type Kind string

// The events that the engine knows.
const (
	SignedUp      Kind = "signed_up"
	Provisioned   Kind = "provisioned"   // reply: what the step asks for exists
	Rejected      Kind = "rejected"      // reply: a definite no
	Deprovisioned Kind = "deprovisioned" // reply: it is gone for good
	TimerDue      Kind = "timer_due"
	Retried       Kind = "retried"        // an operator wants another generation
	Withdraw      Kind = "withdraw"       // the member leaves or an operator cancels
	AttemptFailed Kind = "attempt_failed" // news about a try that goes on; for the timeline only
	Erased        Kind = "erased"         // the member was, while the saga could not be stored; for the timeline only
)

// Event is one thing that happened. Fields that a kind does not need stay zero.
type Event struct {
	Kind       Kind
	MessageID  string                // of the reply's message: the timeline keeps each once
	Step       string                // whose reply it is
	Generation int64                 // of a reply
	Error      contract.StorageError // of a rejection or failed attempt
	Reason     string                // an operator's, for the timeline
	Actor      string                // the operator's name
	Attempt    int                   // of a failed attempt
	Jitter     float64               // TimerDue: a random number in [0, 1)
}

// Effect is an event type to publish in the transaction that stores the saga.
type Effect struct{ Type contract.Type }

// Outcome says what the engine made of an event.
type Outcome string

// The outcomes. All but Unchanged and Refused leave a timeline row.
const (
	Advanced  Outcome = "advanced"  // a transition: the version moved
	GaveUp    Outcome = "gave_up"   // a transition, by the give-up age
	Redriven  Outcome = "redriven"  // the same command goes out again; the version stays
	Recorded  Outcome = "recorded"  // it fits no state: worth a line, changes nothing
	Unchanged Outcome = "unchanged" // already known: nothing to write
	Refused   Outcome = "refused"   // an operator's wish that this state does not allow
)
