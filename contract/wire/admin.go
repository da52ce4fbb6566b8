package wire

import (
	"encoding/json"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// Saga is a signup as operators see it.
type Saga struct {
	SagaID        string                 `json:"saga_id"`            // UUID
	MemberID      string                 `json:"member_id"`          // UUID
	SignupID      string                 `json:"signup_id"`          // the capability of the person who signed up
	Username      *string                `json:"username"`           // nil once the member has left
	Plan          string                 `json:"plan"`               // free, plus or pro
	State         string                 `json:"state"`              // as in [Signup], or [WithdrawNeedsAttention]
	Step          string                 `json:"step"`               // in progress, or the last one
	Delayed       bool                   `json:"delayed"`            // the step takes longer than promised
	Generation    int64                  `json:"generation"`         // of the newest command
	Version       int64                  `json:"version"`            // transitions so far
	Attempts      int                    `json:"attempts"`           // times that the newest command was sent
	RetryOpen     bool                   `json:"retry_open"`         // the newest command is an operator's retry
	LastError     *contract.StorageError `json:"last_error"`         // nil for none; during an outage, the outage
	NextAttemptAt *time.Time             `json:"next_attempt_at"`    // the command is repeated then; nil: never
	CreatedAt     time.Time              `json:"created_at"`         // when the person signed up
	UpdatedAt     time.Time              `json:"updated_at"`         // of the last transition
	TraceID       *string                `json:"trace_id"`           // of the newest command; nil if it was not traced
	Timeline      []Moment               `json:"timeline,omitempty"` // oldest first; not in lists
}

// Moment is a row of a signup's timeline.
type Moment struct {
	At         time.Time `json:"at"`         // by the Member database's clock
	Kind       string    `json:"kind"`       // signed_up, provisioned, redriven, …; see the OpenAPI document
	State      string    `json:"state"`      // of the saga afterwards
	Generation int64     `json:"generation"` // of the saga afterwards
	Attempt    int       `json:"attempt"`    // of a reply, from 1; 0 for none
	Detail     string    `json:"detail"`     // an error or a reason; "" for none
	Actor      string    `json:"actor"`      // the operator; "" for the service itself
}

// Overview is the state of the service.
type Overview struct {
	At            time.Time      `json:"at"`                         // when the service read it
	Counts        map[string]int `json:"counts"`                     // signups by state
	Estimated     []string       `json:"estimated"`                  // states whose count is an estimate
	OldestPending *float64       `json:"oldest_pending_age_seconds"` // nil if nothing is pending
	Outbox        []Lane         `json:"outbox"`                     // all lanes
	DeadEvents    int64          `json:"dead_events"`                // of all lanes
	Breaker       Breaker        `json:"breaker"`                    // of the storage provider
	Stranded      int            `json:"stranded"`                   // members without storage, when last compared
	Orphans       int            `json:"orphans"`                    // storages without member, when last compared
	ReconciledAt  *time.Time     `json:"reconciled_at"`              // nil: never
	Minutes       []Minute       `json:"minutes"`                    // the last hour, oldest first
	Consumers     []Consumer     `json:"consumers"`                  // about which the broker has answered recently
}

// Lane is how far behind a lane of the outbox is.
type Lane struct {
	Lane    string  `json:"lane"`    // essential or non-essential
	Events  int64   `json:"events"`  // that wait; an upper bound
	Seconds float64 `json:"seconds"` // for which the oldest of them has waited
}

// Breaker is what the Storage service last reported about its provider.
type Breaker struct {
	State      string                 `json:"state"`       // open: unavailable; closed: available, or nothing reported
	Since      *time.Time             `json:"since"`       // by the Storage service's clock
	ReportedAt *time.Time             `json:"reported_at"` // by the Member database's clock; nil: nothing reported
	Error      *contract.StorageError `json:"error"`       // why it is unavailable; nil if it is not, or not known
}

// Minute counts what began in one minute.
type Minute struct {
	At       time.Time `json:"at"`       // its beginning
	Signups  int       `json:"signups"`  // that were accepted
	Failures int       `json:"failures"` // that still need attention
}

// Consumer is how far a consumer of messages is behind, by the broker's last answer.
type Consumer struct {
	Stream      string     `json:"stream"`          // name of the stream that it reads
	Consumer    string     `json:"consumer"`        // name of the durable consumer
	State       string     `json:"state"`           // delivering, paused or missing
	Messages    int        `json:"messages"`        // that wait to be delivered or acknowledged
	Stalled     float64    `json:"stalled_seconds"` // for how long none was acknowledged
	PausedUntil *time.Time `json:"paused_until"`    // nil unless it is paused
}

// Failures are the groups of failures, the largest first.
type Failures struct {
	Items    []FailureGroup `json:"items"`    // the largest groups
	Groups   int            `json:"groups"`   // number of all groups
	Failures int            `json:"failures"` // in all groups
}

// FailureGroup is the signups that need attention because of errors with one fingerprint.
type FailureGroup struct {
	Fingerprint  string        `json:"fingerprint"`   // equal for errors of one kind
	Count        int           `json:"count"`         // signups
	FirstSeen    time.Time     `json:"first_seen"`    // of those that failed and still need attention
	LastSeen     time.Time     `json:"last_seen"`     // likewise
	RetriedAgain int           `json:"retried_again"` // that failed again after an operator's retry
	Sample       FailureSample `json:"sample"`        // to show what the error is
}

// FailureSample is the newest signup of a group.
type FailureSample struct {
	SagaID  string `json:"saga_id"` // UUID
	Class   string `json:"class"`   // as in contract.StorageError
	Message string `json:"message"` // of its error, for people
}

// NewGroupRetry is the request to retry the signups that need attention and match the filter. The filter has
// the names of the query parameters of the list of signups.
type NewGroupRetry struct {
	ID        string            `json:"id,omitempty"`                  // UUIDv7, to repeat the call; "": a new one
	Filter    map[string]string `json:"filter"`                        // required; {} selects all that need attention
	Reason    string            `json:"reason,omitempty"`              // at most 1000 bytes; required unless DryRun
	Rate      int               `json:"rate_per_second,omitempty"`     // 0: the service's default
	StopAfter int               `json:"stop_after_failures,omitempty"` // 0: the service's default
	DryRun    bool              `json:"dry_run,omitempty"`             // only count
}

// GroupRetry is a group retry and its progress. Matched = Remaining + Unsettled + Succeeded + Failed + Skipped.
type GroupRetry struct {
	ID             string            `json:"id"`                  // UUIDv7
	Actor          string            `json:"actor"`               // the operator who began it
	Reason         string            `json:"reason"`              // as requested
	Filter         map[string]string `json:"filter"`              // as requested
	Rate           int               `json:"rate_per_second"`     // signups released per second
	StopAfter      int               `json:"stop_after_failures"` // failures after which it stops
	State          string            `json:"state"`               // running, finished, stopped or cancelled
	StoppedBecause string            `json:"stopped_because"`     // failures, unsettled or ""
	Matched        int               `json:"matched"`             // signups, when it began
	Released       int               `json:"released"`            // so far
	Succeeded      int               `json:"succeeded"`           // ready or withdrawn after their release
	Failed         int               `json:"failed"`              // need attention again after their release
	Skipped        int               `json:"skipped"`             // changed by something else meanwhile
	Unsettled      int               `json:"unsettled"`           // released, without an outcome yet
	Remaining      int               `json:"remaining"`           // not released
	CreatedAt      time.Time         `json:"created_at"`          // when it began
	FinishedAt     *time.Time        `json:"finished_at"`         // when it stopped releasing
}

// DeadEvent is an event that could not be published because of a defect of its own.
type DeadEvent struct {
	ID      string    `json:"id"`       // of the row, with its lane
	Lane    string    `json:"lane"`     // essential or non-essential
	EventID string    `json:"event_id"` // UUID
	Type    string    `json:"type"`     // a contract.Type
	Key     string    `json:"key"`      // what the event is about: a member's id
	Error   string    `json:"error"`    // why it was refused
	DiedAt  time.Time `json:"died_at"`  // when it was set aside
}

// AuditRow records one action.
type AuditRow struct {
	ID      int64           `json:"id"`      // rises with time
	At      time.Time       `json:"at"`      // by the Member database's clock
	Actor   string          `json:"actor"`   // name of the operator's token
	Action  string          `json:"action"`  // retry, cancel, …; see the OpenAPI document
	SagaID  *string         `json:"saga_id"` // UUID; nil if the action was not about one signup
	Subject string          `json:"subject"` // what the action was about, if not a signup
	Reason  string          `json:"reason"`  // as the operator gave it; "" for none
	Before  json.RawMessage `json:"before"`  // JSON of what changed, before; null for none
	After   json.RawMessage `json:"after"`   // likewise, after
}
