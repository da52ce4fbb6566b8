package account_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv/pgproxy"
	"github.com/signup-saga/signup-saga/member-svc/internal/account"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

const changed = "a wholly new phrase"

// signIn opens a session and returns its token.
func (f *fixture) signIn(t *testing.T, name, phrase string) string {
	t.Helper()
	session, err := f.SignIn(t.Context(), name, phrase)
	if err != nil {
		t.Fatal(err)
	}
	return session.Token
}

func TestPasswordIsChanged(t *testing.T) {
	f := open(t, storetest.Open(t), cheap)
	f.signUp(t, "mina")
	f.signUp(t, "nora")
	mine, other, noras := f.signIn(t, "mina", phrase), f.signIn(t, "mina", phrase), f.signIn(t, "nora", phrase)
	var invalid signup.Invalid
	for _, easy := range []string{"short", "minaminaminamina", "passwordpassword"} {
		err := f.ChangePassword(t.Context(), mine, phrase, easy)
		if !errors.As(err, &invalid) || invalid.Fields[0].Pointer != "/new_password" {
			t.Errorf("%q: %v", easy, err)
		}
	}
	err := f.ChangePassword(t.Context(), mine, "another password", changed)
	if !errors.Is(err, account.ErrCredentials) {
		t.Errorf("with a wrong password: %v", err)
	}
	if err := f.ChangePassword(t.Context(), mine, phrase, changed); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]error{mine: nil, other: account.ErrNoSession, noras: nil} {
		if _, err := f.Me(t.Context(), token); !errors.Is(err, want) {
			t.Errorf("a session afterwards: %v, want %v", err, want)
		}
	}
	if _, err := f.SignIn(t.Context(), "mina", phrase); !errors.Is(err, account.ErrCredentials) {
		t.Errorf("the old password: %v", err)
	}
	f.signIn(t, "mina", changed)
	log := f.log.String()
	if !strings.Contains(log, "password refused") || !strings.Contains(log, "password changed") ||
		strings.Contains(log, changed) {
		t.Errorf("the log: %s", log)
	}
}

// A sign-in with the old password during a password change leaves no session.
func TestSignInsRaceThePasswordChange(t *testing.T) {
	f := open(t, storetest.Open(t), cheap)
	for range 20 {
		f.signUp(t, "mina")
		mine := f.signIn(t, "mina", phrase)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { _, _ = f.SignIn(context.Background(), "mina", phrase) })
		}
		err := f.ChangePassword(t.Context(), mine, phrase, changed)
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if n := storetest.Count(t, f.pool, "SELECT count(*) FROM session"); n != 1 {
			t.Errorf("%d sessions, want one", n)
		}
		if _, err := f.Withdraw(t.Context(), mine, changed); err != nil {
			t.Fatal(err)
		}
		storetest.Exec(t, f.pool, "UPDATE member SET name_mac = sha256(id::text::bytea)")
	}
}

// The connection breaks after the change reached Postgres and before the answer arrived.
func TestAmbiguousPasswordChange(t *testing.T) {
	proxy := pgproxy.New(t, storetest.URL(t))
	f := open(t, storetest.Connect(t, proxy.URL), cheap)
	f.signUp(t, "mina")
	mine, other := f.signIn(t, "mina", phrase), f.signIn(t, "mina", phrase)
	proxy.LoseAnswer.Store("changePassword")
	if err := f.ChangePassword(t.Context(), mine, phrase, changed); err != nil || proxy.Lost.Load() != 1 {
		t.Fatalf("%v, %d answers lost", err, proxy.Lost.Load())
	}
	if _, err := f.Me(t.Context(), other); !errors.Is(err, account.ErrNoSession) {
		t.Errorf("another session: %v", err)
	}
	f.signIn(t, "mina", changed)
}

func TestSessionsAreListedAndEnded(t *testing.T) {
	f := open(t, storetest.Open(t), cheap)
	f.signUp(t, "mina")
	f.signUp(t, "nora")
	first, second, noras := f.signIn(t, "mina", phrase), f.signIn(t, "mina", phrase), f.signIn(t, "nora", phrase)
	list, err := f.Sessions(t.Context(), first)
	if err != nil || len(list) != 2 || list[0].Current || !list[1].Current {
		t.Fatalf("%+v %v", list, err)
	}
	if used := list[1].LastUsedAt; used.Minute() != 0 || used.After(list[1].CreatedAt) {
		t.Errorf("used at %s", used)
	}
	if err := f.EndSession(t.Context(), noras, list[0].ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("somebody else's session: %v", err)
	}
	if err := f.EndSession(t.Context(), first, list[0].ID); err != nil {
		t.Error(err)
	}
	if _, err := f.Me(t.Context(), second); !errors.Is(err, account.ErrNoSession) {
		t.Errorf("an ended session: %v", err)
	}
	if err := f.EndSessions(t.Context(), first, false); err != nil {
		t.Error(err)
	}
	if _, err := f.Me(t.Context(), first); !errors.Is(err, account.ErrNoSession) {
		t.Errorf("an ended session: %v", err)
	}
	if _, err := f.Me(t.Context(), noras); err != nil {
		t.Errorf("somebody else: %v", err)
	}
}
