// Package challenge issues proofs of work to clients, in the open format of ALTCHA, version 1: find the number
// such that SHA-256 of the salt, followed by the number, is the challenge. It calls no other service and stores
// nothing about anyone.
package challenge

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

const (
	algorithm = "SHA-256"
	// easiest is the smallest MaxNumber. A phone computes some 200,000 hashes a second in a page's script, so
	// it needs 0.1 s on average.
	easiest = 40_000
	// Hardest is the largest MaxNumber. The same phone needs 1 s on average.
	Hardest = 400_000
	// Lifetime is how long a challenge may be solved.
	Lifetime = 2 * time.Minute
	// maxUsed bounds the solutions remembered per lifetime, of some 100 bytes each. Beyond it, no solution is
	// accepted.
	maxUsed = 200_000
	// maxPayload is more than a solution needs.
	maxPayload = 1 << 10
)

// Issuer issues challenges and checks solutions. All processes with the same secret accept each other's
// challenges; each accepts a solution once. An Issuer is safe for concurrent use.
type Issuer struct {
	key []byte

	mu        sync.Mutex
	used      map[string]struct{} // challenges solved in this lifetime
	usedLast  map[string]struct{} // and in the previous one
	usedSince time.Time
}

// NewIssuer returns an issuer. The secret signs challenges.
func NewIssuer(secret []byte) *Issuer {
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte("key of challenges\n")) // a hash never fails
	return &Issuer{key: mac.Sum(nil), used: map[string]struct{}{}, usedSince: time.Now()}
}

// Difficulty returns the MaxNumber for a pressure, in callers refused per caller served.
func Difficulty(pressure float64) int64 {
	return int64(min(easiest*(1+pressure), Hardest))
}

// Issue returns a challenge that takes maxNumber/2 hashes on average.
func (i *Issuer) Issue(maxNumber int64) wire.Challenge {
	random := make([]byte, 12)
	_, _ = rand.Read(random)                                    // never fails
	number, _ := rand.Int(rand.Reader, big.NewInt(maxNumber+1)) // never fails
	// The ampersand ends the time. Without it, digits could be moved from the number to the time without
	// changing the hash.
	salt := hex.EncodeToString(random) + "?expires=" + strconv.FormatInt(time.Now().Add(Lifetime).Unix(), 10) + "&"
	hash := hashOf(salt, number.Int64())
	return wire.Challenge{
		Algorithm: algorithm, Challenge: hash, MaxNumber: maxNumber, Salt: salt, Signature: i.sign(hash),
	}
}

// Redeem reports whether payload solves a challenge that has not expired and that this process has not redeemed
// before.
func (i *Issuer) Redeem(payload string) bool {
	var s wire.Solution
	text, err := base64.StdEncoding.DecodeString(payload)
	if len(payload) > maxPayload || err != nil || json.Unmarshal(text, &s) != nil {
		return false
	}
	_, parameters, _ := strings.Cut(s.Salt, "?expires=")
	until, ended := strings.CutSuffix(parameters, "&")
	expires, err := strconv.ParseInt(until, 10, 64)
	now := time.Now()
	return ended && err == nil && s.Algorithm == algorithm && now.Before(time.Unix(expires, 0)) &&
		hmac.Equal([]byte(s.Signature), []byte(i.sign(s.Challenge))) &&
		s.Challenge == hashOf(s.Salt, s.Number) && i.first(s.Challenge, now)
}

// first reports whether a challenge is solved for the first time. Remembering two lifetimes is enough, because
// an older challenge has expired.
func (i *Issuer) first(challenge string, now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now.Sub(i.usedSince) > Lifetime {
		i.usedLast, i.used, i.usedSince = i.used, map[string]struct{}{}, now
	}
	_, again := i.used[challenge]
	_, before := i.usedLast[challenge]
	if again || before || len(i.used) >= maxUsed {
		return false
	}
	i.used[challenge] = struct{}{}
	return true
}

func (i *Issuer) sign(challenge string) string {
	mac := hmac.New(sha256.New, i.key)
	_, _ = mac.Write([]byte(challenge)) // a hash never fails
	return hex.EncodeToString(mac.Sum(nil))
}

func hashOf(salt string, number int64) string {
	sum := sha256.Sum256([]byte(salt + strconv.FormatInt(number, 10)))
	return hex.EncodeToString(sum[:])
}
