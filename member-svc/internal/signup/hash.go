package signup

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
)

// HashConfig sets the cost of argon2id and the bounds of the queue in front of it.
type HashConfig struct {
	MemoryKiB   uint32
	Time        uint32
	Parallelism uint8
	Concurrency int           // hashes at a time: this times MemoryKiB is the memory it takes
	Wait        time.Duration // for a turn, at most
}

// waitersPerPermit bounds the queue: more could not have their turn in time anyway.
const waitersPerPermit = 64

// Hasher hashes passwords, a few at a time. Safe for concurrent use.
type Hasher struct {
	cfg     HashConfig
	permits chan struct{}
	waiting atomic.Int64
}

// NewHasher returns a hasher.
func NewHasher(cfg HashConfig) *Hasher {
	return &Hasher{cfg: cfg, permits: make(chan struct{}, cfg.Concurrency)}
}

// Waiting returns how many callers wait for their turn.
func (h *Hasher) Waiting() int64 { return h.waiting.Load() }

// Hash returns the argon2id hash as a PHC string; [ErrBusy] if its turn does not come
// in time. Hashing cannot be interrupted: a turn ends with the hash, whoever left.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer func() { <-h.permits }()
	var salt [16]byte
	_, _ = rand.Read(salt[:]) // never fails
	sum := argon2.IDKey([]byte(password), salt[:], h.cfg.Time, h.cfg.MemoryKiB, h.cfg.Parallelism, 32)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.cfg.MemoryKiB, h.cfg.Time, h.cfg.Parallelism,
		b64.EncodeToString(salt[:]), b64.EncodeToString(sum)), nil
}

func (h *Hasher) enter(ctx context.Context) error {
	select {
	case h.permits <- struct{}{}:
		return nil
	default:
	}
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > int64(waitersPerPermit*h.cfg.Concurrency) {
		return ErrBusy
	}
	timer := time.NewTimer(h.cfg.Wait)
	defer timer.Stop()
	select {
	case h.permits <- struct{}{}:
		return nil
	case <-timer.C:
		return ErrBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}
