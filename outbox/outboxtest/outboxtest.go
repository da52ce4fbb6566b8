// Package outboxtest breaks a relay on purpose, so that a service's tests can
// show that its events survive: a step that is not done, and one that is done
// but reported as failed, which is how a lost acknowledgement looks.
package outboxtest

import (
	"errors"
	"sync/atomic"
)

// ErrInjected is the error of every injected fault.
var ErrInjected = errors.New("injected fault")

// Step is a step of a relay that can fail.
type Step struct{ before, after string }

// The steps in which a relay speaks to the broker and to the database.
var (
	Publish    = Step{"publish", "published"}       // a batch is stored in the stream
	Checkpoint = Step{"checkpoint", "checkpointed"} // what is published is noted
)

// Fault makes a step fail a number of times. It is safe for concurrent use, so
// that relays may share one.
type Fault struct {
	point string
	left  atomic.Int64
	fired atomic.Int64
}

// FailBefore drops the step the next times times: it does not happen.
func FailBefore(s Step, times int) *Fault { return newFault(s.before, times) }

// FailAfter lets the step happen but reports the next times times that it failed.
func FailAfter(s Step, times int) *Fault { return newFault(s.after, times) }

func newFault(point string, times int) *Fault {
	f := &Fault{point: point}
	f.left.Store(int64(times))
	return f
}

// Hook is for the field Fault of the relay's hooks.
func (f *Fault) Hook(point string) error {
	if point != f.point || f.left.Add(-1) < 0 {
		return nil
	}
	f.fired.Add(1)
	return ErrInjected
}

// Fired returns how often the fault has happened. A test that does not check it
// may have tested nothing.
func (f *Fault) Fired() int { return int(f.fired.Load()) }
