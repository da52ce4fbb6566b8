package signup

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/argon2"
)

func TestHashIsPHC(t *testing.T) {
	h := NewHasher(HashConfig{MemoryKiB: 64, Time: 2, Parallelism: 1, Concurrency: 1, Wait: time.Second})
	phc, err := h.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != "v=19" || parts[3] != "m=64,t=2,p=1" {
		t.Fatal(phc)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		t.Fatal(err)
	}
	if want := base64.RawStdEncoding.EncodeToString(argon2.IDKey([]byte("correct horse battery"), salt, 2, 64, 1, 32)); parts[5] != want {
		t.Error("another implementation cannot verify the hash")
	}
}

func TestVerify(t *testing.T) {
	h := NewHasher(HashConfig{MemoryKiB: 64, Time: 2, Parallelism: 1, Concurrency: 1, Wait: time.Second})
	phc, err := h.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	dearer := NewHasher(HashConfig{MemoryKiB: 128, Time: 1, Parallelism: 2, Concurrency: 1, Wait: time.Second})
	for _, tc := range []struct {
		phc, password string
		want          bool
	}{{phc, "correct horse battery", true}, {phc, "correct horse", false}, {"", "", false}, {"", "correct horse battery", false}} {
		for _, h := range []*Hasher{h, dearer} { // a hash keeps the cost that it was made with
			if ok, err := h.Verify(t.Context(), tc.phc, tc.password); ok != tc.want || err != nil {
				t.Errorf("%q %q: %t %v", tc.phc, tc.password, ok, err)
			}
		}
	}
	if ok, err := h.Verify(t.Context(), h.decoy, ""); ok || err != nil {
		t.Errorf("the decoy is the hash of a password: %v", err)
	}
	for _, bad := range []string{"x", "$argon2i$v=19$m=8,t=1,p=1$AAAA$AAAA", "$argon2id$v=19$m=8,t=1,p=1$AAAA$!", "$argon2id$v=19$m=8,t=1$AAAA$AAAA"} {
		if ok, err := h.Verify(t.Context(), bad, "x"); ok || err == nil {
			t.Errorf("%q: %t, no error", bad, ok)
		}
	}
}

func TestHashQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHasher(HashConfig{MemoryKiB: 8, Time: 1, Parallelism: 1, Concurrency: 1, Wait: 2 * time.Second})
		h.permits <- struct{}{} // somebody hashes, and does not end
		results := make(chan error, waitersPerPermit)
		began := time.Now()
		for range waitersPerPermit {
			go func() { _, err := h.Hash(t.Context(), "x"); results <- err }()
		}
		synctest.Wait()
		if h.Waiting() != waitersPerPermit {
			t.Fatalf("%d wait", h.Waiting())
		}
		if _, err := h.Hash(t.Context(), "x"); !errors.Is(err, ErrBusy) || time.Since(began) != 0 {
			t.Errorf("beyond the queue: %v after %s, want busy at once", err, time.Since(began))
		}
		for range waitersPerPermit {
			if err := <-results; !errors.Is(err, ErrBusy) || time.Since(began) != 2*time.Second {
				t.Fatalf("in the queue: %v after %s", err, time.Since(began))
			}
		}
		if h.Waiting() != 0 {
			t.Errorf("%d still wait", h.Waiting())
		}
		left, cancel := context.WithCancelCause(t.Context())
		cancel(fmt.Errorf("client left"))
		if _, err := h.Hash(left, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left: %v", err)
		}
		<-h.permits
		if _, err := h.Hash(t.Context(), "x"); err != nil {
			t.Errorf("after the turn ended: %v", err)
		}
	})
}
