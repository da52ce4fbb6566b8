package contract

import "time"

// StorageCommand is the data of [StorageProvision] and [StorageDeprovision]:
// the desired state of one member's storage.
type StorageCommand struct {
	MemberID string `json:"member_id"` // UUID
	SagaID   string `json:"saga_id"`   // UUID
	// Generation is raised by the Member service only, when an operator retries
	// or the member leaves; a higher one supersedes every lower one.
	Generation int64 `json:"generation"`
	// QuotaBytes is the size of the storage in bytes; 0 in a deprovision.
	QuotaBytes int64 `json:"quota_bytes,omitempty"`
}

// Validate reports fields that are missing or out of bounds.
func (c StorageCommand) Validate() error {
	var out checks
	out.about(c.MemberID, c.SagaID, c.Generation)
	out.number("quota_bytes", c.QuotaBytes, 0, MaxQuotaBytes)
	return out.err()
}

func (c StorageCommand) whom() (memberID, sagaID string, generation int64) {
	return c.MemberID, c.SagaID, c.Generation
}

func (r StorageReply) whom() (memberID, sagaID string, generation int64) {
	return r.MemberID, r.SagaID, r.Generation
}

func (s SignedUp) whom() (memberID, sagaID string, generation int64) { return s.MemberID, s.SagaID, 0 }

func (s Stuck) whom() (memberID, sagaID string, generation int64) {
	return s.MemberID, s.SagaID, s.Generation
}

// about checks the fields that say which member a message is about.
func (c *checks) about(memberID, sagaID string, generation int64) {
	c.uuid("member_id", memberID)
	c.uuid("saga_id", sagaID)
	c.number("generation", generation, 1, MaxGeneration)
}

// StorageReply is the data of every event about one storage that the Storage service sends.
type StorageReply struct {
	MemberID   string `json:"member_id"`             // UUID
	SagaID     string `json:"saga_id"`               // UUID
	Generation int64  `json:"generation"`            // of the command that it answers
	QuotaBytes int64  `json:"quota_bytes,omitempty"` // in provisioned
	// Attempt counts the attempts of this generation, from 1; attempts that failed in an outage are not
	// counted.
	Attempt int `json:"attempt,omitempty"`
	// Error is set in rejected and attempt-failed.
	Error *StorageError `json:"error,omitempty"`
	// NextAttemptAt is set in attempt-failed.
	NextAttemptAt *time.Time `json:"next_attempt_at,omitempty"`
}

// Validate reports fields that are missing or out of bounds.
func (r StorageReply) Validate() error {
	var out checks
	out.about(r.MemberID, r.SagaID, r.Generation)
	out.number("quota_bytes", r.QuotaBytes, 0, MaxQuotaBytes)
	out.number("attempt", int64(r.Attempt), 0, MaxAttempt)
	out.cause(r.Error)
	if r.NextAttemptAt != nil {
		out.time("next_attempt_at", *r.NextAttemptAt, future)
	}
	return out.err()
}

func (c *checks) cause(e *StorageError) {
	if e == nil {
		return
	}
	if e.Class != "" { // a rejection without a class is still a rejection
		c.class("error.class", e.Class)
	}
	c.text("error.message", e.Message, MaxText)
	c.text("error.fingerprint", e.Fingerprint, MaxText)
}

// StorageError says why an attempt failed. It never contains personal data.
type StorageError struct {
	// Class is one of transient, outage, throttled, rejected, poison.
	Class   string `json:"class"`
	Message string `json:"message"` // for people
	// Fingerprint is equal for errors of the same kind, so that they can be grouped.
	Fingerprint string `json:"fingerprint"`
}

// ProviderChange is the data of [StorageProviderChanged].
type ProviderChange struct {
	// State is "open" while the provider is unavailable and nobody calls it, otherwise "closed".
	State string `json:"state"`
	// Version increases with each change. Readers ignore a message with a lower one.
	Version int64 `json:"version"`
	// ChangedAt is when the state began.
	ChangedAt time.Time `json:"changed_at"`
	// Error says why it is open. If the reason changes while it is open, another message says so.
	Error *StorageError `json:"error,omitempty"`
}

// Validate reports fields that are missing or out of bounds.
func (p ProviderChange) Validate() error {
	var out checks
	if p.State != "open" && p.State != "closed" {
		out.fail("state", "be open or closed")
	}
	out.number("version", p.Version, 1, MaxVersion)
	out.time("changed_at", p.ChangedAt, ahead)
	out.cause(p.Error)
	return out.err()
}

// SignedUp is the data of [MemberSignedUp]. It holds ids only: the address is
// read from the Member database when the mail is sent.
type SignedUp struct {
	MemberID string `json:"member_id"` // UUID
	SagaID   string `json:"saga_id"`   // UUID
}

// Validate reports fields that are missing or out of bounds.
func (s SignedUp) Validate() error {
	var out checks
	out.uuid("member_id", s.MemberID)
	out.uuid("saga_id", s.SagaID)
	return out.err()
}

// Stuck is the data of [SignupStuck]. It holds ids only.
type Stuck struct {
	MemberID   string `json:"member_id"`  // UUID
	SagaID     string `json:"saga_id"`    // UUID
	Generation int64  `json:"generation"` // of the newest command
	// State is the state of the saga, for example needs_attention.
	State string `json:"state"`
	// Reason is "delayed" if the signup has been unanswered for too long, otherwise the class of the error that
	// needs a person.
	Reason string `json:"reason"`
	// Since is when the signup became stuck for this reason.
	Since time.Time `json:"since"`
}

// Validate reports fields that are missing or out of bounds.
func (s Stuck) Validate() error {
	var out checks
	out.about(s.MemberID, s.SagaID, s.Generation)
	out.class("state", s.State)
	if out.name("reason", s.Reason); s.Reason == "" {
		out.fail("reason", "not be empty")
	}
	out.time("since", s.Since, ahead)
	return out.err()
}
