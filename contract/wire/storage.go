package wire

import (
	"encoding/json"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// MemberStorage is a storage as storage-svc sees it.
type MemberStorage struct {
	MemberID       string                 `json:"member_id"`                 // UUID
	SagaID         string                 `json:"saga_id"`                   // UUID, of the newest command
	Generation     int64                  `json:"generation"`                // of the newest command
	Desired        string                 `json:"desired"`                   // present or absent
	Status         string                 `json:"status"`                    // pending, ready, absent or rejected
	QuotaBytes     int64                  `json:"quota_bytes"`               // size in bytes
	Attempts       int                    `json:"attempts"`                  // without those of an outage
	OutageAttempts int                    `json:"outage_attempts"`           // failed in an outage, or throttled
	NextAttemptAt  *time.Time             `json:"next_attempt_at,omitempty"` // nil unless it is pending
	LastError      *contract.StorageError `json:"last_error,omitempty"`      // nil for none
	Version        int64                  `json:"version"`                   // changes so far
	CreatedAt      time.Time              `json:"created_at"`                // of the first command
	UpdatedAt      time.Time              `json:"updated_at"`                // of the last change
}

// DeadLetter is a message that could not be applied.
type DeadLetter struct {
	ID         string          `json:"id"`                   // equal for repetitions of the same message
	Subject    string          `json:"subject"`              // on which it arrived
	SagaID     *string         `json:"saga_id,omitempty"`    // UUID; nil if unknown
	Generation int64           `json:"generation,omitempty"` // 0 if unknown
	Reason     string          `json:"reason"`               // why it cannot be applied
	Headers    json.RawMessage `json:"headers"`              // a JSON object of lists
	Body       string          `json:"body"`                 // its first KiB, as text
	BodyBytes  int             `json:"body_bytes"`           // of the whole body
	Seen       int64           `json:"seen"`                 // number of deliveries
	FirstSeen  time.Time       `json:"first_seen"`           // first delivery
	LastSeen   time.Time       `json:"last_seen"`            // newest delivery
}

// Fault is how the provider is made to fail, for demonstrations and tests.
type Fault struct {
	Mode        string  `json:"mode"`        // none, outage, slow, flaky, reject, hang or throttle
	Probability float64 `json:"probability"` // of each call, 0 to 1
	LatencyMS   int     `json:"latency_ms"`  // for slow and throttle, milliseconds
}
