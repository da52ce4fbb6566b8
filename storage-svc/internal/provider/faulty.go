package provider

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// Mode is a way in which a provider misbehaves.
type Mode string

// The modes.
const (
	ModeNone   Mode = "none"
	ModeOutage Mode = "outage" // unavailable for sharedErrors
	ModeSlow   Mode = "slow"   // answers after LatencyMS
	ModeFlaky  Mode = "flaky"  // fails, half of the time after doing the work
	ModeReject Mode = "reject" // refuses for good
	ModeHang   Mode = "hang"   // never answers
	// ModeThrottle asks every caller to come back after LatencyMS.
	ModeThrottle Mode = "throttle"
)

// Fault is how the provider is made to misbehave.
type Fault struct {
	Mode        Mode    `json:"mode" db:"mode"`
	Probability float64 `json:"probability" db:"probability"` // of each call, 0 to 1
	LatencyMS   int     `json:"latency_ms" db:"latency_ms"`   // for slow and throttle, milliseconds
}

// MaxLatencyMS is the longest latency of a [Fault].
const MaxLatencyMS = 60_000

// Known reports whether m is one of the modes.
func (m Mode) Known() bool {
	return slices.Contains([]Mode{ModeNone, ModeOutage, ModeSlow, ModeFlaky, ModeReject, ModeHang, ModeThrottle}, m)
}

// FaultTTL is how old a replica's copy of the setting may be, and so how fast all replicas follow a change.
const FaultTTL = 200 * time.Millisecond

// Faulty is a provider that fails on purpose. All replicas share one setting, which says how. For
// demonstrations and tests.
type Faulty struct {
	Provider provision.Provider
	// Load reads the setting; if it fails, the last one stays.
	Load func(ctx context.Context) (Fault, error)

	mu     sync.Mutex
	fault  Fault
	loaded time.Time
}

// Create calls the provider's Create, or fails.
func (f *Faulty) Create(ctx context.Context, s provision.Storage) error {
	return f.call(ctx, func() error { return f.Provider.Create(ctx, s) })
}

// Remove calls the provider's Remove, or fails.
func (f *Faulty) Remove(ctx context.Context, s provision.Storage) error {
	return f.call(ctx, func() error { return f.Provider.Remove(ctx, s) })
}

// List calls the provider's List, or fails.
func (f *Faulty) List(ctx context.Context, after string, limit int) (found []provision.Resource, err error) {
	err = f.call(ctx, func() error {
		found, err = f.Provider.List(ctx, after, limit)
		return err
	})
	return found, err
}

func (f *Faulty) call(ctx context.Context, do func() error) error {
	fault := f.current(ctx)
	if rand.Float64() >= fault.Probability {
		return do()
	}
	switch fault.Mode {
	case ModeOutage:
		return &provision.Failure{Class: provision.ClassOutage, Err: errors.New("connection refused (injected)")}
	case ModeReject:
		return &provision.Failure{Class: provision.ClassRejected, Err: errors.New("quota not available (injected)")}
	case ModeThrottle:
		return &provision.Failure{
			Class: provision.ClassThrottled, RetryAfter: time.Duration(fault.LatencyMS) * time.Millisecond,
			Err: errors.New("too many requests (injected)"),
		}
	case ModeHang:
		<-ctx.Done()
		return ctx.Err()
	case ModeSlow:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(fault.LatencyMS) * time.Millisecond):
		}
	case ModeFlaky:
		var err error
		if rand.N(2) == 0 {
			err = do()
		}
		return errors.Join(errors.New("connection reset (injected)"), err)
	}
	return do()
}

// current returns the setting. The first caller that finds it too old reads it again, and the others wait: a
// call that begins after a change must not use the old setting for long.
func (f *Faulty) current(ctx context.Context) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.loaded) < FaultTTL {
		return f.fault
	}
	if fault, err := f.Load(ctx); err == nil {
		f.fault, f.loaded = fault, now
	}
	return f.fault
}
