package signup_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// Two requests that differ only in their passwords have the same fingerprint: nobody can try passwords against
// it, whatever else they know.
func TestFingerprintHasNoPassword(t *testing.T) {
	var fingerprints [][]byte
	for _, password := range []string{good, "another long passphrase"} {
		pool := storetest.Open(t)
		s := newService(pool)
		first := wire.NewMember{Username: "mina", Password: password, Email: "mina@example.org"}
		answer, err := s.SignUp(t.Context(), first, "the-key")
		if err != nil {
			t.Fatal(err)
		}
		var fingerprint []byte
		const find = "-- name: testFingerprint\nSELECT body_hmac FROM idempotency_key"
		if err := pool.QueryRow(t.Context(), find).Scan(&fingerprint); err != nil {
			t.Fatal(err)
		}
		fingerprints = append(fingerprints, fingerprint)

		for name, tc := range map[string]struct {
			change func(*wire.NewMember)
			want   error
		}{
			"the same":           {func(*wire.NewMember) {}, nil},
			"the default plan":   {func(r *wire.NewMember) { r.Plan = "free" }, nil},
			"another password":   {func(r *wire.NewMember) { r.Password += "!" }, signup.ErrKeyReused},
			"another address":    {func(r *wire.NewMember) { r.Email = "nora@example.org" }, signup.ErrKeyReused},
			"another plan":       {func(r *wire.NewMember) { r.Plan = "plus" }, signup.ErrKeyReused},
			"the name elsewhere": {func(r *wire.NewMember) { r.Username = "MINA" }, signup.ErrKeyReused},
		} {
			again := first
			tc.change(&again)
			got, err := s.SignUp(t.Context(), again, "the-key")
			if !errors.Is(err, tc.want) || err == nil && (!got.Replayed || !bytes.Equal(got.Body, answer.Body)) {
				t.Errorf("%s: %+v %v, want %v", name, got, err, tc.want)
			}
		}
	}
	if !bytes.Equal(fingerprints[0], fingerprints[1]) {
		t.Error("the fingerprint depends on the password")
	}
}

// A replica of an older version wrote the key while it ran beside this one.
func TestOldFingerprintsHold(t *testing.T) {
	pool := storetest.Open(t)
	s := newService(pool)
	request := wire.NewMember{Username: "mina", Password: good, Plan: "free"}
	first, err := s.SignUp(t.Context(), request, "the-key")
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte(strings.Repeat("s", 32)))
	mac.Write(body)
	storetest.Exec(t, pool, "UPDATE idempotency_key SET body_hmac = $1", mac.Sum(nil))
	again, err := s.SignUp(t.Context(), request, "the-key")
	if err != nil || !again.Replayed || !bytes.Equal(again.Body, first.Body) {
		t.Errorf("%+v %v", again, err)
	}
	request.Password += "!"
	if _, err := s.SignUp(t.Context(), request, "the-key"); !errors.Is(err, signup.ErrKeyReused) {
		t.Errorf("another password: %v", err)
	}
}

// Replays hash, so they wait in the queue like every other caller.
func TestReplaysWaitForTheirTurn(t *testing.T) {
	pool := storetest.Open(t)
	request := wire.NewMember{Username: "mina", Password: good}
	if _, err := newService(pool).SignUp(t.Context(), request, "the-key"); err != nil {
		t.Fatal(err)
	}
	full := cheap
	full.Concurrency, full.Wait = 0, time.Millisecond // no caller gets a turn
	cfg := signup.Config{
		Plans: []string{"free"}, Passwords: password.Policy{MinLength: 15}, Secret: []byte(strings.Repeat("s", 32)),
		DatabaseTimeout: time.Minute,
	}
	st := store.New(pool, storetest.Steps, storetest.Secret, func() {})
	s := members{signup.New(cfg, st, password.NewHasher(full), storetest.Steps)}
	if _, err := s.SignUp(context.Background(), request, "the-key"); !errors.Is(err, password.ErrBusy) {
		t.Errorf("%v, want busy", err)
	}
}
