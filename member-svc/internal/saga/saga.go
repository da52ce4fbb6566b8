package saga

import (
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// State is the state of a saga.
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

// Open reports whether a command has been sent whose reply has not arrived.
func (s State) Open() bool { return s == Provisioning || s == Withdrawing }

func (s State) leaving() bool { return s == Withdrawing || s == WithdrawNeedsAttention }

// Left reports whether the member has left, even if not every step is taken back yet.
func (s State) Left() bool { return s.leaving() || s == Withdrawn }

// Public returns the state as the member sees it: a withdrawal that needs attention is still a withdrawal.
func (s State) Public() State {
	if s == WithdrawNeedsAttention {
		return Withdrawing
	}
	return s
}

// Settled reports whether a client may stop polling: no step is in progress. A withdrawal that needs attention
// is not settled, because members see it as withdrawing.
func (s State) Settled() bool { return !s.Public().Open() }

// Saga is the progress of one signup, and one row of signup_saga.
type Saga struct {
	ID, MemberID, SignupID string
	State                  State
	Step                   int        // index of the current step
	Generation             int64      // of the newest command; starts at 1
	Version                int64      // transitions so far; the compare-and-swap guard
	Redrives               int        // how often the timer has repeated the current command
	RetryOpen              bool       // the current command is an operator's retry
	Retried                bool       // an operator has retried this goal: a failure is a repeated one
	OpenedAt               time.Time  // when the current command was first sent; the give-up age counts from here
	CommandedAt            time.Time  // when the newest command was put into the outbox
	DueAt                  *time.Time // when the timer fires next; nil: never
	ErrorClass             string     // why the saga needs attention, or ""
	ErrorMessage           string
	ErrorFingerprint       string    // the same for all errors of one kind
	CreatedAt, UpdatedAt   time.Time // UpdatedAt: when the version changed last
}

// Kind names what happened to a saga.
type Kind string

// The events that the engine knows.
const (
	SignedUp      Kind = "signed_up"
	Provisioned   Kind = "provisioned"   // reply: the step is done
	Rejected      Kind = "rejected"      // reply: a definite rejection
	Deprovisioned Kind = "deprovisioned" // reply: the step was taken back for good
	TimerDue      Kind = "timer_due"
	Retried       Kind = "retried"        // an operator's retry
	Withdraw      Kind = "withdraw"       // the member leaves, or an operator cancels
	AttemptFailed Kind = "attempt_failed" // one attempt failed, more will follow; for the timeline only
	Erased        Kind = "erased"         // member erased, but the saga could not be stored; for the timeline only

	// CommandedAgain means that reconciliation sent the command again; for the timeline only.
	CommandedAgain Kind = "commanded_again"
)

// Event is one thing that happened. Fields that its kind does not use are zero.
type Event struct {
	Kind       Kind
	MessageID  string                // the reply's message id; the timeline records each at most once
	Step       string                // the step that a reply is about
	Generation int64                 // a reply's generation
	Error      contract.StorageError // of a rejection or failed attempt
	Reason     string                // an operator's reason, for the timeline
	Actor      string                // the operator's name
	Attempt    int                   // number of a failed attempt
	Jitter     float64               // TimerDue: a random number in [0, 1)
}

// Outcome is the result of applying an event to a saga.
type Outcome string

// The outcomes. All but Unchanged and Refused leave a timeline row.
const (
	Advanced  Outcome = "advanced"  // a transition: the version changed
	GaveUp    Outcome = "gave_up"   // a transition, because the give-up age has passed
	Redriven  Outcome = "redriven"  // the same command is sent again; the version stays
	Recorded  Outcome = "recorded"  // fits no state: only gets a timeline row
	Unchanged Outcome = "unchanged" // already known: nothing to write
	Refused   Outcome = "refused"   // an operator's order that this state does not allow
)
