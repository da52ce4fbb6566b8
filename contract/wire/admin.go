package wire

import (
	"encoding/json"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// Saga is a signup as operators see it.
type Saga struct {
	SagaID        string                 `json:"saga_id"`
	MemberID      string                 `json:"member_id"`
	SignupID      string                 `json:"signup_id"`
	Username      *string                `json:"username"` // nil once the member has left
	Plan          string                 `json:"plan"`
	State         string                 `json:"state"`
	Step          string                 `json:"step"` // that is asked for, or was last
	Delayed       bool                   `json:"delayed"`
	Generation    int64                  `json:"generation"` // of the newest command
	Version       int64                  `json:"version"`    // transitions so far
	Attempts      int                    `json:"attempts"`   // times that the newest command was sent
	RetryOpen     bool                   `json:"retry_open"` // the newest command is an operator's retry
	LastError     *contract.StorageError `json:"last_error"`
	NextAttemptAt *time.Time             `json:"next_attempt_at"`
	CreatedAt     time.Time              `json:"created_at"`
	UpdatedAt     time.Time              `json:"updated_at"`
	TraceID       *string                `json:"trace_id"`           // of the newest command; nil if it was not traced
	Timeline      []Moment               `json:"timeline,omitempty"` // oldest first; not in lists
}

// Moment is something that happened to a saga: a row of its timeline.
type Moment struct {
	At         time.Time `json:"at"`
	Kind       string    `json:"kind"`
	State      string    `json:"state"`
	Generation int64     `json:"generation"`
	Attempt    int       `json:"attempt"`
	Detail     string    `json:"detail"`
	Actor      string    `json:"actor"`
}

// Overview is how the service is doing.
type Overview struct {
	At            time.Time      `json:"at"`
	Counts        map[string]int `json:"counts"`                     // sagas by state
	Estimated     []string       `json:"estimated"`                  // states whose count is an estimate
	OldestPending *float64       `json:"oldest_pending_age_seconds"` // nil if nothing is pending
	Outbox        []Lane         `json:"outbox"`
	DeadEvents    int64          `json:"dead_events"`
	Breaker       Breaker        `json:"breaker"`
	Stranded      int            `json:"stranded"`      // members without their storage, by the last reconciliation
	Orphans       int            `json:"orphans"`       // storages without their member, by the last reconciliation
	ReconciledAt  *time.Time     `json:"reconciled_at"` // nil: never
	Minutes       []Minute       `json:"minutes"`       // the last hour, oldest first
	Consumers     []Consumer     `json:"consumers"`     // of which the broker said something lately
}

// Lane is how far behind a lane of the outbox is.
type Lane struct {
	Lane    string  `json:"lane"`
	Events  int64   `json:"events"`  // that wait, at most
	Seconds float64 `json:"seconds"` // that the oldest of them has waited
}

// Breaker is what the Storage service last said of its provider.
type Breaker struct {
	State      string                 `json:"state"` // open: it is away; closed: it is not, or nothing was said yet
	Since      *time.Time             `json:"since"` // by the Storage service's clock
	ReportedAt *time.Time             `json:"reported_at"`
	Error      *contract.StorageError `json:"error"` // why it is away; nil if it is not, or if that was not said
}

// Minute is what began in a minute.
type Minute struct {
	At       time.Time `json:"at"`
	Signups  int       `json:"signups"`
	Failures int       `json:"failures"` // that still need attention
}

// Consumer is how far a consumer of messages is behind, as the broker said last.
type Consumer struct {
	Stream      string     `json:"stream"`
	Consumer    string     `json:"consumer"`
	State       string     `json:"state"`           // delivering, paused or missing
	Messages    int        `json:"messages"`        // that wait to be delivered or acknowledged
	Stalled     float64    `json:"stalled_seconds"` // for how long none was acknowledged
	PausedUntil *time.Time `json:"paused_until"`    // nil unless it is paused
}

// Failures are the failures of all kinds, the largest groups first.
type Failures struct {
	Items    []FailureGroup `json:"items"`
	Groups   int            `json:"groups"`   // in all
	Failures int            `json:"failures"` // in all groups
}

// FailureGroup are the sagas that need attention with errors of one fingerprint.
type FailureGroup struct {
	Fingerprint  string        `json:"fingerprint"`
	Count        int           `json:"count"`
	FirstSeen    time.Time     `json:"first_seen"` // of those that failed and still need attention
	LastSeen     time.Time     `json:"last_seen"`
	RetriedAgain int           `json:"retried_again"` // that failed again after an operator's retry
	Sample       FailureSample `json:"sample"`
}

// FailureSample is the newest saga of a group.
type FailureSample struct {
	SagaID  string `json:"saga_id"`
	Class   string `json:"class"`
	Message string `json:"message"`
}

// NewGroupRetry asks for a retry of the sagas that need attention and that the filter
// selects, by the names of the query of the list of sagas.
type NewGroupRetry struct {
	ID        string            `json:"id,omitempty"` // a UUIDv7 by which the call may be repeated; "": the service's
	Filter    map[string]string `json:"filter"`
	Reason    string            `json:"reason,omitempty"`
	Rate      int               `json:"rate_per_second,omitempty"`     // 0: the service's default
	StopAfter int               `json:"stop_after_failures,omitempty"` // 0: the service's default
	DryRun    bool              `json:"dry_run,omitempty"`             // only count
}

// GroupRetry is a retry of a group. Matched = Remaining + Unsettled + Succeeded + Failed + Skipped.
type GroupRetry struct {
	ID             string            `json:"id"`
	Actor          string            `json:"actor"`
	Reason         string            `json:"reason"`
	Filter         map[string]string `json:"filter"` // as it was asked for
	Rate           int               `json:"rate_per_second"`
	StopAfter      int               `json:"stop_after_failures"`
	State          string            `json:"state"`           // running, finished, stopped (by itself) or cancelled
	StoppedBecause string            `json:"stopped_because"` // failures, unsettled or ""
	Matched        int               `json:"matched"`
	Released       int               `json:"released"`
	Succeeded      int               `json:"succeeded"`
	Failed         int               `json:"failed"`
	Skipped        int               `json:"skipped"`   // that something else changed before or after their turn
	Unsettled      int               `json:"unsettled"` // released, and without an outcome yet
	Remaining      int               `json:"remaining"` // not released
	CreatedAt      time.Time         `json:"created_at"`
	FinishedAt     *time.Time        `json:"finished_at"` // when it ceased to release
}

// DeadEvent is an event that could not be published for a defect of its own.
type DeadEvent struct {
	ID      string    `json:"id"`
	Lane    string    `json:"lane"`
	EventID string    `json:"event_id"`
	Type    string    `json:"type"`
	Key     string    `json:"key"` // what it is about: a member's id
	Error   string    `json:"error"`
	DiedAt  time.Time `json:"died_at"`
}

// AuditRow is what somebody did.
type AuditRow struct {
	ID      int64           `json:"id"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Action  string          `json:"action"`
	SagaID  *string         `json:"saga_id"`
	Subject string          `json:"subject"` // what else it was about
	Reason  string          `json:"reason"`
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
}
