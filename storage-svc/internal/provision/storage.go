package provision

import (
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// Desired is the state that the Member service orders.
type Desired string

// The desired states. Absent is final.
const (
	Present Desired = "present"
	Absent  Desired = "absent"
)

// Status is how far a storage is on its way to the desired state.
type Status string

// The statuses; all but Pending are settled, until a newer generation comes.
const (
	Pending  Status = "pending"
	Ready    Status = "ready"
	Removed  Status = "absent"
	Rejected Status = "rejected" // refused for good by the provider
)

// Storage is one member's storage as it is in the database.
type Storage struct {
	MemberID   string  `db:"member_id"`
	SagaID     string  `db:"saga_id"`
	Generation int64   `db:"generation"`
	Desired    Desired `db:"desired"`
	Status     Status  `db:"status"`
	QuotaBytes int64   `db:"quota_bytes"`
	// of this generation, without those that failed in an outage or were throttled
	Attempts       int        `db:"attempts"`
	OutageAttempts int        `db:"outage_attempts"` // attempts that failed in an outage or were throttled
	NextAttemptAt  *time.Time `db:"next_attempt_at"` // while pending
	LeaseToken     *string    `db:"lease_token"`     // of the worker that is working on it
	LeaseUntil     *time.Time `db:"lease_until"`
	LastErrorClass *string    `db:"last_error_class"`
	LastError      *string    `db:"last_error"`
	TraceParent    string     `db:"traceparent"` // of the command; "" for none
	Version        int64      `db:"version"`
	CreatedAt      time.Time  `db:"created_at"`
	UpdatedAt      time.Time  `db:"updated_at"`
}

// Error returns the last error in the form that others see, or nil.
func (s Storage) Error() *contract.StorageError {
	return storedError(s.LastErrorClass, s.LastError)
}

// storedError returns a stored error in the form that others see.
func storedError(class, message *string) *contract.StorageError {
	if class == nil || message == nil {
		return nil
	}
	return storageError(Class(*class), *message)
}

// Reply is an event to be published: what the Member service learns about a storage.
type Reply struct {
	Type        contract.Type
	Data        contract.StorageReply
	TraceParent string // of the message that it answers; "" for none
}

// Reply returns the reply for the current state. Only a settled storage has one.
func (s Storage) Reply() (Reply, bool) {
	r := Reply{Data: contract.StorageReply{
		MemberID: s.MemberID, SagaID: s.SagaID, Generation: s.Generation, Attempt: s.Attempts,
	}}
	switch s.Status {
	case Ready:
		r.Type, r.Data.QuotaBytes = contract.StorageProvisioned, s.QuotaBytes
	case Removed:
		r.Type = contract.StorageDeprovisioned
	case Rejected:
		r.Type, r.Data.Error = contract.StorageRejected, s.Error()
	default:
		return Reply{}, false
	}
	return r, true
}

// Command is a storage command that could be parsed.
type Command struct {
	MemberID, SagaID string // canonical UUIDs
	Generation       int64
	Desired          Desired
	QuotaBytes       int64
	TraceParent      string // "" for none
}

// New returns the pending storage that a member's first command creates.
func (c Command) New() Storage {
	return Storage{
		MemberID: c.MemberID, SagaID: c.SagaID, Generation: c.Generation,
		Desired: c.Desired, Status: Pending, QuotaBytes: c.QuotaBytes, Version: 1, TraceParent: c.TraceParent,
	}
}

// Decide returns what a command changes about an existing storage, and what must be answered at once. An answer
// always has the generation of the command, so a number that somebody else sent cannot block anybody. A changed
// storage is pending and due, and its attempts are counted anew. Its lease stays: the worker that holds it will
// find that its result is refused because of the version.
func Decide(s Storage, c Command) (next Storage, changed bool, reply *Reply) {
	overtaken := c.Generation <= s.Generation && s.Status == Pending
	if s.Desired == Absent && c.Desired == Present && !overtaken {
		return s, false, removedForGood(c)
	}
	if !s.superseded(c) {
		// A duplicate, or overtaken by a newer command. While the storage is pending, the worker will answer.
		if r, settled := s.Reply(); settled {
			r.TraceParent, r.Data.SagaID, r.Data.Generation = c.TraceParent, c.SagaID, c.Generation
			reply = &r
		}
		return s, false, reply
	}
	next = s
	next.SagaID, next.Generation, next.Desired, next.Status, next.TraceParent = c.SagaID, c.Generation, c.Desired,
		Pending, c.TraceParent
	if c.Desired == Present {
		next.QuotaBytes = c.QuotaBytes
	}
	next.Attempts, next.OutageAttempts, next.LastErrorClass, next.LastError = 0, 0, nil, nil
	next.Version++
	return next, true, nil
}

// superseded reports whether a command orders something new. A newer generation does. So does a removal,
// because it is final and nothing overtakes it. So does any command after a rejection, if it has another
// generation.
func (s Storage) superseded(c Command) bool {
	return c.Generation > s.Generation || s.Desired == Present && c.Desired == Absent ||
		s.Status == Rejected && c.Generation != s.Generation
}

// removedForGood rejects the creation of a storage that was removed.
func removedForGood(c Command) *Reply {
	return &Reply{Type: contract.StorageRejected, TraceParent: c.TraceParent, Data: contract.StorageReply{
		MemberID: c.MemberID, SagaID: c.SagaID, Generation: c.Generation,
		Error: storageError(ClassRejected, ErrTombstoned.Error()),
	}}
}
