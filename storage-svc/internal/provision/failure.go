package provision

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"

	"github.com/signup-saga/signup-saga/contract"
)

// Class says what an error means for the next attempt.
type Class string

const (
	// ClassTransient is worth repeating; an unknown error is transient.
	ClassTransient Class = "transient"
	// ClassOutage means that the provider is unavailable for everybody. The call is repeated, and does not
	// count as an attempt.
	ClassOutage Class = "outage"
	// ClassThrottled means that the call may be repeated later, but not before RetryAfter.
	ClassThrottled Class = "throttled"
	// ClassRejected is definite: repeating cannot help, an operator might.
	ClassRejected Class = "rejected"
	// ClassPoison is a command that cannot be understood.
	ClassPoison Class = "poison"
)

// Failure is an error whose class is known. Providers return it.
type Failure struct {
	Class      Class
	RetryAfter time.Duration // for ClassThrottled; 0 if the provider did not say
	Err        error
}

// Error returns the underlying error's text.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the underlying error.
func (f *Failure) Unwrap() error { return f.Err }

// ErrTombstoned means that a member's storage was removed, which is final.
var ErrTombstoned = errors.New("the storage was removed for good")

var errNoAnswer = errors.New("the provider did not answer in time")

// classify returns err as a Failure.
func classify(err error) *Failure {
	var f *Failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded):
		// The outcome is unknown; the provider's operations may be repeated.
		return &Failure{Class: ClassTransient, Err: errNoAnswer}
	default:
		return &Failure{Class: ClassTransient, Err: err}
	}
}

func storageError(c Class, message string) *contract.StorageError {
	return &contract.StorageError{Class: string(c), Message: message, Fingerprint: fingerprint(c, message)}
}

// fingerprint is equal for errors that differ only in numbers and ids. It consists of the class and the words
// of the message, without the words that contain a digit.
func fingerprint(c Class, message string) string {
	words := strings.FieldsFunc(strings.ToLower(message),
		func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	kept := words[:0]
	for _, w := range words {
		if len(kept) < 8 && !strings.ContainsFunc(w, unicode.IsDigit) {
			kept = append(kept, w)
		}
	}
	return string(c) + ":" + strings.Join(kept, "-")
}
