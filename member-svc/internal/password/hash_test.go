package password

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
	h := NewHasher(HashConfig{Cost: Cost{64, 2, 1}, Concurrency: 1, Wait: time.Second})
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
	if want := base64.RawStdEncoding.EncodeToString(
		argon2.IDKey([]byte("correct horse battery"), salt, 2, 64, 1, 32)); parts[5] != want {
		t.Error("another implementation cannot verify the hash")
	}
}

func TestVerify(t *testing.T) {
	h := NewHasher(HashConfig{Cost: Cost{64, 2, 1}, Concurrency: 1, Wait: time.Second})
	phc, err := h.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	dearer := NewHasher(HashConfig{Cost: Cost{128, 1, 2}, Concurrency: 1, Wait: time.Second})
	for _, tc := range []struct {
		phc, password string
		want          bool
	}{{phc, "correct horse battery", true}, {phc, "correct horse", false}, {"", "", false},
		{"", "correct horse battery", false}} {
		for _, h := range []*Hasher{h, dearer} { // a hash keeps its original cost
			ok, renewed, err := h.Verify(t.Context(), tc.phc, tc.password)
			if ok != tc.want || err != nil || (renewed != "") != (tc.want && h == dearer) {
				t.Errorf("%q %q: %t %q %v", tc.phc, tc.password, ok, renewed, err)
			}
			if renewed == "" {
				continue
			}
			if ok, again, err := h.Verify(t.Context(), renewed, tc.password); !ok || again != "" || err != nil ||
				!strings.Contains(renewed, "m=128,t=1,p=2") {
				t.Errorf("the new hash %q: %t %q %v", renewed, ok, again, err)
			}
		}
	}
	if ok, _, err := h.Verify(t.Context(), h.decoy, ""); ok || err != nil {
		t.Errorf("the decoy is the hash of a password: %v", err)
	}
	for _, bad := range []string{"x", "$argon2i$v=19$m=8,t=1,p=1$AAAA$AAAA", "$argon2id$v=19$m=8,t=1,p=1$AAAA$!",
		"$argon2id$v=19$m=8,t=1$AAAA$AAAA",
		"$argon2id$v=19$m=8,t=0,p=1$AAAA$AAAA", "$argon2id$v=19$m=8,t=1,p=0$AAAA$AAAA",
		"$argon2id$v=19$m=8,t=1,p=1$AAAA$", "$argon2id$v=16$m=8,t=1,p=1$AAAA$AAAA",
		"$argon2id$v=19$m=8,t=1,p=1,keyid=!$AAAA$AAAA"} {
		if ok, _, err := h.Verify(t.Context(), bad, "x"); ok || err == nil {
			t.Errorf("%q: %t, no error", bad, ok)
		}
	}
}

func TestPeppers(t *testing.T) {
	parse := func(text string) Peppers {
		p, err := ParsePeppers(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const old, newer = "2025:b2xkIGtleSBvZiBzaXh0ZWVu", "2026:bmV3IGtleSBvZiBzaXh0ZWVu\n"
	cost := Cost{8, 1, 1}
	hashers := map[string]*Hasher{}
	for name, text := range map[string]string{"none": "", "old": old, "rotated": "# newest first\n" + newer + old,
		"lost": newer, "ends": "none\n" + old} {
		hashers[name] = NewHasher(HashConfig{Cost: cost, Concurrency: 1, Wait: time.Second, Peppers: parse(text)})
	}
	hashes := map[string]string{}
	for name, h := range hashers {
		hash, err := h.Hash(t.Context(), "correct horse battery")
		if err != nil {
			t.Fatal(err)
		}
		hashes[name] = hash
	}
	if want := ",p=1,keyid=" + b64.EncodeToString([]byte("2025")) + "$"; !strings.Contains(hashes["old"], want) ||
		strings.Contains(hashes["none"], "keyid") {
		t.Errorf("%s\n%s", hashes["old"], hashes["none"])
	}
	for _, tc := range []struct {
		hasher, hash string
		renews       bool
		err          error
	}{
		{"none", "none", false, nil}, {"old", "none", true, nil}, {"rotated", "none", true, nil},
		{"old", "old", false, nil}, {"rotated", "old", true, nil}, {"rotated", "lost", false, nil},
		{"ends", "old", true, nil}, {"ends", "none", false, nil}, {"none", "ends", false, nil},
		{"none", "old", false, ErrNoPepper}, {"lost", "old", false, ErrNoPepper},
		{"old", "rotated", false, ErrNoPepper},
	} {
		h := hashers[tc.hasher]
		ok, renewed, err := h.Verify(t.Context(), hashes[tc.hash], "correct horse battery")
		if ok != (tc.err == nil) || !errors.Is(err, tc.err) || (renewed != "") != tc.renews {
			t.Errorf("%+v: %t %q %v", tc, ok, renewed, err)
		}
		if ok, renewed, err := h.Verify(t.Context(), hashes[tc.hash], "correct horse"); ok || renewed != "" ||
			!errors.Is(err, tc.err) {
			t.Errorf("%+v, wrong password: %t %q %v", tc, ok, renewed, err)
		}
		if tc.renews {
			if ok, again, err := h.Verify(t.Context(), renewed, "correct horse battery"); !ok || again != "" ||
				err != nil {
				t.Errorf("%+v: the new hash: %t %q %v", tc, ok, again, err)
			}
		}
	}
	// Without the key, the stored hash does not reveal whether a password is right.
	if ok, _, err := hashers["none"].Verify(t.Context(), strings.Replace(hashes["old"], ",keyid="+
		b64.EncodeToString([]byte("2025")), "", 1), "correct horse battery"); ok || err != nil {
		t.Errorf("the pepper does nothing: %t %v", ok, err)
	}
}

func TestParsePeppers(t *testing.T) {
	const key = "b2xkIGtleSBvZiBzaXh0ZWVu"
	for text, want := range map[string]string{
		"k:" + key + "\n\n# none\nk2:" + key: "", "": "",
		"k": "line 1", "k:": "line 1", ":" + key: "line 1", "k:AAAA": "line 1", "too-long-:" + key: "line 1", "k,:" +
			key: "line 1",
		"k:" + key + "\nk:" + key: "line 2", "# x\nk:" + key + "!": "line 2", "k:" + key + "\nnone": "line 2",
		"none": "",
	} {
		_, err := ParsePeppers(text)
		if (err == nil) != (want == "") || err != nil &&
			(!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), key)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestHashQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHasher(HashConfig{Cost: Cost{8, 1, 1}, Concurrency: 1, Wait: 2 * time.Second})
		if err := h.queue.enter(t.Context(), forSignup, 0); err != nil { // a hash that never ends
			t.Fatal(err)
		}
		results := make(chan error, waitersPerTurn)
		began := time.Now()
		for range waitersPerTurn {
			go func() { _, err := h.Hash(t.Context(), "x"); results <- err }()
		}
		synctest.Wait()
		if h.Waiting() != waitersPerTurn {
			t.Fatalf("%d wait", h.Waiting())
		}
		go func() { _, err := h.Hash(t.Context(), "x"); results <- err }()
		if err := <-results; !errors.Is(err, ErrBusy) || time.Since(began) != 0 {
			t.Errorf("beyond the queue: %v after %s, want busy at once", err, time.Since(began))
		}
		for range waitersPerTurn {
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
		h.queue.leave(0)
		if _, err := h.Hash(left, "x"); err != nil || h.queue.free != 1 {
			t.Errorf("a client that left when its turn had come: %v, %d turns are free", err, h.queue.free)
		}
	})
}
