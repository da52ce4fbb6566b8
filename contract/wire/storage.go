package wire

import (
	"encoding/json"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// MemberStorage is a storage as storage-svc sees it.
type MemberStorage struct {
	MemberID       string                 `json:"member_id"`
	SagaID         string                 `json:"saga_id"`
	Generation     int64                  `json:"generation"`
	Desired        string                 `json:"desired"` // present or absent
	Status         string                 `json:"status"`  // pending, ready, absent or rejected
	QuotaBytes     int64                  `json:"quota_bytes"`
	Attempts       int                    `json:"attempts"`
	OutageAttempts int                    `json:"outage_attempts"`
	NextAttemptAt  *time.Time             `json:"next_attempt_at,omitempty"`
	LastError      *contract.StorageError `json:"last_error,omitempty"`
	Version        int64                  `json:"version"`
	CreatedAt      time.Time              `json:"created_at"`
	UpdatedAt      time.Time              `json:"updated_at"`
}

// DeadLetter is a message that could not be applied.
type DeadLetter struct {
	ID         string          `json:"id"`
	Subject    string          `json:"subject"`
	SagaID     *string         `json:"saga_id,omitempty"`
	Generation int64           `json:"generation,omitempty"`
	Reason     string          `json:"reason"`
	Headers    json.RawMessage `json:"headers"`
	Body       string          `json:"body"` // its first KiB, as text
	BodyBytes  int             `json:"body_bytes"`
	Seen       int64           `json:"seen"` // number of deliveries
	FirstSeen  time.Time       `json:"first_seen"`
	LastSeen   time.Time       `json:"last_seen"`
}

// Fault is how the provider is made to fail, for demonstrations and tests.
type Fault struct {
	Mode        string  `json:"mode"`        // none, outage, slow, flaky, reject, hang or throttle
	Probability float64 `json:"probability"` // of each call, 0 to 1
	LatencyMS   int     `json:"latency_ms"`  // for slow and throttle, milliseconds
}
