package signup

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
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
	decoy   string // a hash of no password
	permits chan struct{}
	waiting atomic.Int64
}

// NewHasher returns a hasher.
func NewHasher(cfg HashConfig) *Hasher {
	return &Hasher{cfg: cfg, decoy: cfg.phc(random(16), random(32)), permits: make(chan struct{}, cfg.Concurrency)}
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
	salt := random(16)
	return h.cfg.phc(salt, argon2.IDKey([]byte(password), salt, h.cfg.Time, h.cfg.MemoryKiB, h.cfg.Parallelism, 32)), nil
}

// Verify reports whether phc, of whatever cost, is the hash of password; [ErrBusy] as
// for Hash. With phc "" it works just as long and reports false, so that its time does
// not tell who exists.
func (h *Hasher) Verify(ctx context.Context, phc, password string) (bool, error) {
	var cost HashConfig
	var salt, sum string
	_, err := fmt.Sscanf(strings.ReplaceAll(cmp.Or(phc, h.decoy), "$", " "), " argon2id v=19 m=%d,t=%d,p=%d %s %s",
		&cost.MemoryKiB, &cost.Time, &cost.Parallelism, &salt, &sum)
	rawSalt, badSalt := b64.DecodeString(salt)
	want, badSum := b64.DecodeString(sum)
	if err := errors.Join(err, badSalt, badSum); err != nil {
		return false, fmt.Errorf("stored password hash: %w", err)
	}
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer func() { <-h.permits }()
	got := argon2.IDKey([]byte(password), rawSalt, cost.Time, cost.MemoryKiB, cost.Parallelism, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && phc != "", nil
}

var b64 = base64.RawStdEncoding

func (c HashConfig) phc(salt, sum []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.MemoryKiB, c.Time, c.Parallelism, b64.EncodeToString(salt), b64.EncodeToString(sum))
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
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
