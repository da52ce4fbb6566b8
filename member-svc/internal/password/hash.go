package password

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
)

// ErrBusy means that a turn to hash did not come in time.
var ErrBusy = errors.New("too many passwords wait to be hashed")

// ErrNoPepper means that a password cannot be checked, because this process lacks the pepper of its hash.
var ErrNoPepper = errors.New("the pepper of a stored password hash is missing")

// Cost is the cost of one hash.
type Cost struct {
	MemoryKiB   uint32
	Time        uint32 // passes over the memory
	Parallelism uint8
}

// HashConfig sets the cost of argon2id and the bounds of the queue in front of it.
type HashConfig struct {
	Cost                      // of new hashes
	Concurrency int           // maximum number of hashes at a time
	BudgetKiB   int64         // their memory in total; a single hash may exceed it
	Wait        time.Duration // maximum wait for a turn
	Peppers     Peppers
}

// Hasher hashes passwords, a few at a time. It is safe for concurrent use.
type Hasher struct {
	cfg   HashConfig
	decoy string // a hash that no password has
	queue *hashQueue
}

// NewHasher returns a hasher.
func NewHasher(cfg HashConfig) *Hasher {
	return &Hasher{cfg: cfg, decoy: phc{cfg.Cost, cfg.Peppers.newest, random(16), random(32)}.String(),
		queue: newHashQueue(cfg)}
}

// Waiting returns how many callers wait for their turn.
func (h *Hasher) Waiting() int64 { return h.queue.waiting() }

// Pressure returns how many callers were refused recently for each one that had a turn.
func (h *Hasher) Pressure() float64 { return h.queue.pressure() }

// Hash returns the argon2id hash as a PHC string, or [ErrBusy] if its turn does not come in time. Hashing
// cannot be interrupted: a turn ends when the hash is done, even if the client has left.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	leave, err := h.enter(ctx, forSignup, h.cfg.Cost)
	if err != nil {
		return "", err
	}
	defer leave()
	return h.hash(password)
}

// Verify reports whether hash, of any cost and pepper, is the hash of password. The errors are [ErrBusy], as
// for Hash, and [ErrNoPepper]. If the password is right but the hash has another cost or pepper than new
// hashes, renewed is a new hash, made in the same turn; else it is "".
//
// If hash is "", Verify takes as long as for a new hash and reports false, so that its duration does not reveal
// whether the member exists. A wrong password for a cheaper hash takes that long, too.
func (h *Hasher) Verify(ctx context.Context, hash, password string) (ok bool, renewed string, err error) {
	stored, err := parsePHC(cmp.Or(hash, h.decoy))
	if err != nil {
		return false, "", err
	}
	seasoned, err := h.cfg.Peppers.season(stored.keyID, password)
	if err != nil {
		return false, "", err
	}
	leave, err := h.enter(ctx, forSignIn, stored.Cost)
	if err != nil {
		return false, "", err
	}
	defer leave()
	got := stored.derive(seasoned, stored.salt, len(stored.sum))
	ok = subtle.ConstantTimeCompare(got, stored.sum) == 1 && hash != ""
	switch {
	case !ok:
		h.padCost(stored.Cost)
	case stored.Cost != h.cfg.Cost || stored.keyID != h.cfg.Peppers.newest:
		renewed, err = h.hash(password)
	}
	return ok, renewed, err
}

func (h *Hasher) hash(password string) (string, error) {
	seasoned, err := h.cfg.Peppers.season(h.cfg.Peppers.newest, password)
	salt := random(16)
	return phc{h.cfg.Cost, h.cfg.Peppers.newest, salt, h.cfg.derive(seasoned, salt, 32)}.String(), err
}

// padCost burns the difference between the cost of a new hash and the cost that is done.
func (h *Hasher) padCost(done Cost) {
	if missing := h.cfg.work() - done.work(); missing > 0 {
		rest := h.cfg.Cost
		rest.MemoryKiB = uint32(missing / int64(rest.Time)) // less than the memory of a new hash
		rest.derive(nil, random(16), 32)
	}
}

// enter waits for a turn with the memory for a hash of cost c and, after it, for a new one.
func (h *Hasher) enter(ctx context.Context, u use, c Cost) (leave func(), err error) {
	kib := min(int64(max(c.MemoryKiB, h.cfg.MemoryKiB)), h.cfg.BudgetKiB)
	err = h.queue.enter(ctx, u, kib)
	began := time.Now()
	return func() {
		h.queue.measured(time.Since(began))
		h.queue.leave(kib)
	}, err
}

func (c Cost) derive(password, salt []byte, size int) []byte {
	return argon2.IDKey(password, salt, c.Time, c.MemoryKiB, c.Parallelism, uint32(size))
}

// work returns a number that is proportional to the duration of a hash.
func (c Cost) work() int64 { return int64(c.MemoryKiB) * int64(c.Time) }

// phc is a password hash in the format of https://github.com/P-H-C/phc-string-format. That format's key id
// names argon2's own secret; here it names the pepper.
type phc struct {
	Cost
	keyID     string // "" without a pepper
	salt, sum []byte
}

var b64 = base64.RawStdEncoding

const keyIDParameter = ",keyid="

func (p phc) String() string {
	keyID := ""
	if p.keyID != "" {
		keyID = keyIDParameter + b64.EncodeToString([]byte(p.keyID))
	}
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d%s$%s$%s", argon2.Version, p.MemoryKiB, p.Time, p.Parallelism,
		keyID,
		b64.EncodeToString(p.salt), b64.EncodeToString(p.sum))
}

func parsePHC(text string) (p phc, err error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return p, errors.New("stored password hash: not argon2id, version 19")
	}
	parameters, encoded, _ := strings.Cut(parts[3], keyIDParameter)
	_, err = fmt.Sscanf(parameters, "m=%d,t=%d,p=%d", &p.MemoryKiB, &p.Time, &p.Parallelism)
	keyID, badID := b64.DecodeString(encoded)
	var badSalt, badSum error
	p.salt, badSalt = b64.DecodeString(parts[4])
	p.sum, badSum = b64.DecodeString(parts[5])
	p.keyID = string(keyID)
	if err = errors.Join(err, badID, badSalt, badSum); err == nil &&
		(p.Time < 1 || p.Parallelism < 1 || len(p.sum) == 0) {
		err = errors.New("no passes, lanes or sum")
	}
	if err != nil {
		err = fmt.Errorf("stored password hash: %w", err)
	}
	return p, err
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
