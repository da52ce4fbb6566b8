package provision

import (
	"math/bits"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/service"
)

// Policy says when failed attempts are repeated: after a random time whose limit doubles from Base up to a cap.
// It also says how many calls the provider gets.
type Policy struct {
	Base      time.Duration
	Cap       time.Duration
	OutageCap time.Duration // shorter, so that nobody waits long when the provider is back
	Rate      float64       // calls per second of all replicas together; 0: unlimited
}

// Result is the result of an attempt. It is written only if storage and lease are still as they were when the
// attempt began.
type Result struct {
	Was   Storage // as claimed
	Next  Storage
	Delay time.Duration // until the next attempt, by the database's clock, if Next is pending
	Reply *Reply        // for attempt-failed, the store fills in the time of the next attempt
	// Failure is what went wrong, or nil.
	Failure *Failure
}

// After returns the result of an attempt on s that ended with err.
func (p Policy) After(s Storage, err error) Result {
	r := Result{Was: s, Next: s}
	r.Next.Version++
	if err == nil {
		r.Next.Attempts++
		r.Next.LastErrorClass, r.Next.LastError = nil, nil
		r.Next.Status = Ready
		if s.Desired == Absent {
			r.Next.Status = Removed
		}
		return r.settled()
	}
	f := classify(err)
	r.Failure = f
	class, message := string(f.Class), service.CleanText(f.Error())
	r.Next.LastErrorClass, r.Next.LastError = &class, &message
	count, limit := &r.Next.Attempts, p.Cap
	// An outage uses up no attempts.
	if f.Class == ClassOutage {
		count, limit = &r.Next.OutageAttempts, p.OutageCap
	}
	if f.Class == ClassThrottled { // nor does a throttled call
		count = &r.Next.OutageAttempts
	}
	*count++
	if f.Class == ClassRejected {
		r.Next.Status = Rejected
		return r.settled()
	}
	r.Delay = max(service.Backoff(*count, p.Base, limit), f.RetryAfter)
	// Only attempts 1, 2, 4, 8, … are reported: an outage must not flood the stream.
	if bits.OnesCount(uint(*count)) == 1 {
		r.Reply = &Reply{Type: contract.StorageAttemptFailed, Data: contract.StorageReply{
			MemberID: s.MemberID, SagaID: s.SagaID, Generation: s.Generation,
			Attempt: r.Next.Attempts, Error: storageError(f.Class, message),
		}}
	}
	return r
}

func (r Result) settled() Result {
	reply, _ := r.Next.Reply()
	r.Reply = &reply
	return r
}
