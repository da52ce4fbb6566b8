// Package outboxtest breaks a relay on purpose, so that a service's tests can show that its events survive. A
// step either does not happen, or happens and is reported as failed, as after a lost acknowledgement.
package outboxtest

import (
	"errors"
	"sync/atomic"
)

// ErrInjected is the error of every injected fault.
var ErrInjected = errors.New("injected fault")

// Step is a step of a relay that can fail.
type Step struct{ before, after string }

// The steps in which a relay talks to the broker and to the database.
var (
	Publish    = Step{"publish", "published"}       // a batch is stored in the stream
	Checkpoint = Step{"checkpoint", "checkpointed"} // what is published is recorded
)

// Fault makes a step fail a number of times. It is safe for concurrent use, so relays may share one.
type Fault struct {
	point string
	left  atomic.Int64
	fired atomic.Int64
}

// FailBefore makes the step fail the next times times, without happening.
func FailBefore(s Step, times int) *Fault { return newFault(s.before, times) }

// FailAfter makes the step report failure the next times times, although it has happened.
func FailAfter(s Step, times int) *Fault { return newFault(s.after, times) }

func newFault(point string, times int) *Fault {
	f := &Fault{point: point}
	f.left.Store(int64(times))
	return f
}

// Hook is for the field Fault of the relay's hooks. It is safe for concurrent use.
func (f *Fault) Hook(point string) error {
	if point != f.point || f.left.Add(-1) < 0 {
		return nil
	}
	f.fired.Add(1)
	return ErrInjected
}

// Fired returns how often the fault has happened. A test should check it: a fault that never fired tests
// nothing.
func (f *Fault) Fired() int { return int(f.fired.Load()) }
