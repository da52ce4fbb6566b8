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
	Step          string                 `json:"step"` // in progress, or the last one
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

// Moment is a row of a signup's timeline.
type Moment struct {
	At         time.Time `json:"at"`
	Kind       string    `json:"kind"`
	State      string    `json:"state"`
	Generation int64     `json:"generation"`
	Attempt    int       `json:"attempt"`
	Detail     string    `json:"detail"`
	Actor      string    `json:"actor"`
}

// Overview is the state of the service.
type Overview struct {
	At            time.Time      `json:"at"`
	Counts        map[string]int `json:"counts"`                     // signups by state
	Estimated     []string       `json:"estimated"`                  // states whose count is an estimate
	OldestPending *float64       `json:"oldest_pending_age_seconds"` // nil if nothing is pending
	Outbox        []Lane         `json:"outbox"`
	DeadEvents    int64          `json:"dead_events"`
	Breaker       Breaker        `json:"breaker"`
	Stranded      int            `json:"stranded"`      // members without their storage, by the last reconciliation
	Orphans       int            `json:"orphans"`       // storages without their member, by the last reconciliation
	ReconciledAt  *time.Time     `json:"reconciled_at"` // nil: never
	Minutes       []Minute       `json:"minutes"`       // the last hour, oldest first
	Consumers     []Consumer     `json:"consumers"`     // about which the broker has answered recently
}

// Lane is how far behind a lane of the outbox is.
type Lane struct {
	Lane    string  `json:"lane"`
	Events  int64   `json:"events"`  // that wait; an upper bound
	Seconds float64 `json:"seconds"` // for which the oldest of them has waited
}

// Breaker is what the Storage service last reported about its provider.
type Breaker struct {
	State      string                 `json:"state"` // open: unavailable; closed: available, or nothing reported
	Since      *time.Time             `json:"since"` // by the Storage service's clock
	ReportedAt *time.Time             `json:"reported_at"`
	Error      *contract.StorageError `json:"error"` // why it is unavailable; nil if it is not, or not known
}

// Minute counts what began in one minute.
type Minute struct {
	At       time.Time `json:"at"`
	Signups  int       `json:"signups"`
	Failures int       `json:"failures"` // that still need attention
}

// Consumer is how far a consumer of messages is behind, by the broker's last answer.
type Consumer struct {
	Stream      string     `json:"stream"`
	Consumer    string     `json:"consumer"`
	State       string     `json:"state"`           // delivering, paused or missing
	Messages    int        `json:"messages"`        // that wait to be delivered or acknowledged
	Stalled     float64    `json:"stalled_seconds"` // for how long none was acknowledged
	PausedUntil *time.Time `json:"paused_until"`    // nil unless it is paused
}

// Failures are the groups of failures, the largest first.
type Failures struct {
	Items    []FailureGroup `json:"items"`
	Groups   int            `json:"groups"`   // number of all groups
	Failures int            `json:"failures"` // in all groups
}

// FailureGroup is the signups that need attention because of errors with one fingerprint.
type FailureGroup struct {
	Fingerprint  string        `json:"fingerprint"`
	Count        int           `json:"count"`
	FirstSeen    time.Time     `json:"first_seen"` // of those that failed and still need attention
	LastSeen     time.Time     `json:"last_seen"`
	RetriedAgain int           `json:"retried_again"` // that failed again after an operator's retry
	Sample       FailureSample `json:"sample"`
}

// FailureSample is the newest signup of a group.
type FailureSample struct {
	SagaID  string `json:"saga_id"`
	Class   string `json:"class"`
	Message string `json:"message"`
}

// NewGroupRetry is the request to retry the signups that need attention and match the filter. The filter has
// the names of the query parameters of the list of signups.
type NewGroupRetry struct {
	ID        string            `json:"id,omitempty"` // UUIDv7 that makes the call repeatable; "": service makes one
	Filter    map[string]string `json:"filter"`
	Reason    string            `json:"reason,omitempty"`
	Rate      int               `json:"rate_per_second,omitempty"`     // 0: the service's default
	StopAfter int               `json:"stop_after_failures,omitempty"` // 0: the service's default
	DryRun    bool              `json:"dry_run,omitempty"`             // only count
}

// GroupRetry is a group retry and its progress. Matched = Remaining + Unsettled + Succeeded + Failed + Skipped.
type GroupRetry struct {
	ID             string            `json:"id"`
	Actor          string            `json:"actor"`
	Reason         string            `json:"reason"`
	Filter         map[string]string `json:"filter"` // as requested
	Rate           int               `json:"rate_per_second"`
	StopAfter      int               `json:"stop_after_failures"`
	State          string            `json:"state"`           // running, finished, stopped (automatically) or cancelled
	StoppedBecause string            `json:"stopped_because"` // failures, unsettled or ""
	Matched        int               `json:"matched"`
	Released       int               `json:"released"`
	Succeeded      int               `json:"succeeded"`
	Failed         int               `json:"failed"`
	Skipped        int               `json:"skipped"`   // changed by something else, before or after their release
	Unsettled      int               `json:"unsettled"` // released, without an outcome yet
	Remaining      int               `json:"remaining"` // not released
	CreatedAt      time.Time         `json:"created_at"`
	FinishedAt     *time.Time        `json:"finished_at"` // when it stopped releasing
}

// DeadEvent is an event that could not be published because of a defect of its own.
type DeadEvent struct {
	ID      string    `json:"id"`
	Lane    string    `json:"lane"`
	EventID string    `json:"event_id"`
	Type    string    `json:"type"`
	Key     string    `json:"key"` // what the event is about: a member's id
	Error   string    `json:"error"`
	DiedAt  time.Time `json:"died_at"`
}

// AuditRow records one action.
type AuditRow struct {
	ID      int64           `json:"id"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Action  string          `json:"action"`
	SagaID  *string         `json:"saga_id"`
	Subject string          `json:"subject"` // what the action was about, if not a signup
	Reason  string          `json:"reason"`
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
}
