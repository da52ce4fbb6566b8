package contract

import (
	"errors"
	"time"
)

// StorageCommand is the data of [StorageProvision] and [StorageDeprovision]:
// the desired state of one member's storage.
type StorageCommand struct {
	MemberID string `json:"member_id"`
	SagaID   string `json:"saga_id"`
	// Generation is raised by the Member service only, when an operator retries
	// or the member leaves; a higher one supersedes every lower one.
	Generation int64 `json:"generation"`
	// QuotaBytes is the size of the storage in bytes; 0 in a deprovision.
	QuotaBytes int64 `json:"quota_bytes,omitempty"`
}

// Validate reports missing or impossible fields.
func (c StorageCommand) Validate() error {
	var errs []error
	if c.MemberID == "" || c.SagaID == "" {
		errs = append(errs, errors.New("member_id and saga_id are required"))
	}
	if c.Generation < 1 {
		errs = append(errs, errors.New("generation must be at least 1"))
	}
	if c.QuotaBytes < 0 {
		errs = append(errs, errors.New("quota_bytes must not be negative"))
	}
	return errors.Join(errs...)
}

// StorageReply is the data of every event about one storage that the Storage service sends.
type StorageReply struct {
	MemberID   string `json:"member_id"`
	SagaID     string `json:"saga_id"`
	Generation int64  `json:"generation"`
	QuotaBytes int64  `json:"quota_bytes,omitempty"`
	// Attempt counts the attempts of this generation, from 1; attempts that an
	// outage spoilt are not counted.
	Attempt int `json:"attempt,omitempty"`
	// Error is set in rejected and attempt-failed.
	Error *StorageError `json:"error,omitempty"`
	// NextAttemptAt is set in attempt-failed.
	NextAttemptAt *time.Time `json:"next_attempt_at,omitempty"`
}

// Validate reports missing or impossible fields.
func (r StorageReply) Validate() error {
	if r.MemberID == "" || r.SagaID == "" || r.Generation < 1 {
		return errors.New("member_id, saga_id and a generation of at least 1 are required")
	}
	return nil
}

// StorageError says why an attempt failed. It never contains personal data.
type StorageError struct {
	// Class is one of transient, outage, throttled, rejected, poison.
	Class   string `json:"class"`
	Message string `json:"message"`
	// Fingerprint is equal for errors of the same kind, so that they can be grouped.
	Fingerprint string `json:"fingerprint"`
}

// ProviderChange is the data of [StorageProviderChanged].
type ProviderChange struct {
	// State is "open" while nobody calls the provider, since nobody is there, else "closed".
	State string `json:"state"`
	// Version rises with each change; an older message is to be ignored.
	Version int64 `json:"version"`
	// ChangedAt is when the state began.
	ChangedAt time.Time `json:"changed_at"`
}

// Validate reports missing or impossible fields.
func (p ProviderChange) Validate() error {
	if p.State != "open" && p.State != "closed" || p.Version < 1 {
		return errors.New("state must be open or closed, and version at least 1")
	}
	return nil
}

// SignedUp is the data of [MemberSignedUp]. It holds ids only: the address is
// read from the Member database when the mail is sent.
type SignedUp struct {
	MemberID string `json:"member_id"`
	SagaID   string `json:"saga_id"`
}

// Validate reports missing fields.
func (s SignedUp) Validate() error {
	if s.MemberID == "" || s.SagaID == "" {
		return errors.New("member_id and saga_id are required")
	}
	return nil
}

// Stuck is the data of [SignupStuck]. It holds ids only.
type Stuck struct {
	MemberID   string `json:"member_id"`
	SagaID     string `json:"saga_id"`
	Generation int64  `json:"generation"`
	// State is the saga's, for example needs_attention.
	State string `json:"state"`
	// Reason is "delayed" while nobody has answered for too long, else the class
	// of the error for which a person is needed.
	Reason string `json:"reason"`
	// Since is when that began.
	Since time.Time `json:"since"`
}

// Validate reports missing fields.
func (s Stuck) Validate() error {
	if s.MemberID == "" || s.SagaID == "" || s.Reason == "" {
		return errors.New("member_id, saga_id and reason are required")
	}
	return nil
}
