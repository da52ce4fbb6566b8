package account_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/devstack/testenv/pgproxy"
	"github.com/signup-saga/signup-saga/member-svc/internal/account"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const phrase = "påsswörd of some length"

type fixture struct {
	*account.Service
	store  *store.Store
	pool   *pgxpool.Pool
	signup *signup.Service
	log    bytes.Buffer // of one sign-in
}

func open(t *testing.T, pool *pgxpool.Pool, cost password.HashConfig) *fixture {
	t.Helper()
	f := &fixture{pool: pool, store: store.New(pool, storetest.Steps, storetest.Secret, func() {})}
	hasher := password.NewHasher(cost)
	f.signup = signup.New(signup.Config{Plans: []string{"free"}, Passwords: password.Policy{MinLength: 15},
		Secret:          storetest.Secret,
		DatabaseTimeout: 5 * time.Second}, f.store, hasher, storetest.Steps)
	f.Service = account.New(account.Config{
		SessionLifetime: time.Hour, DatabaseTimeout: 5 * time.Second, Passwords: password.Policy{MinLength: 15},
		Log: slog.New(slog.NewTextHandler(&f.log, nil)),
	}, f.store, hasher, storetest.Steps)
	return f
}

// SignIn signs in as the API does.
func (f *fixture) SignIn(ctx context.Context, username, password string) (wire.Session, error) {
	key, _ := signup.UsernameKey(username)
	return f.Service.SignIn(ctx, key, password)
}

func (f *fixture) signUp(t *testing.T, name string) signup.Answer {
	t.Helper()
	key, _ := signup.UsernameKey(name)
	a, err := f.signup.SignUp(t.Context(), wire.NewMember{Username: name, Password: phrase}, key, "")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var cheap = password.HashConfig{Cost: password.Cost{MemoryKiB: 8, Time: 1, Parallelism: 1}, Concurrency: 2,
	Wait: 5 * time.Second}

func TestSignIn(t *testing.T) {
	f := open(t, storetest.Open(t), cheap)
	f.signUp(t, "Mina")
	// The same characters from another keyboard: decomposed.
	session, err := f.SignIn(t.Context(), "MINA", "påsswörd of some length")
	if left := time.Until(session.ExpiresAt); err != nil || left > time.Hour || left < 59*time.Minute ||
		len(session.Token) != 43 {
		t.Fatalf("%+v %v", session, err)
	}
	other, err := f.SignIn(t.Context(), "mina", phrase)
	if err != nil || other.Token == session.Token {
		t.Errorf("%+v %v", other, err)
	}
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM session s WHERE strpos(s::text, $1) > 0 OR strpos(s::text, encode($1::text::bytea, "+
			"'hex')) > 0", session.Token[:20]); n != 0 {
		t.Error("the token itself is stored")
	}
	if me, err := f.Me(t.Context(), session.Token); err != nil || me.Username != "Mina" || me.Email != nil {
		t.Errorf("%+v %v", me, err)
	}
	storetest.Exec(t, f.pool, "UPDATE session SET expires_at = now()")
	if _, err := f.Me(t.Context(), session.Token); !errors.Is(err, account.ErrNoSession) {
		t.Errorf("its time is over: %v", err)
	}
	if _, err := f.Withdraw(t.Context(), session.Token, phrase); !errors.Is(err, account.ErrNoSession) {
		t.Errorf("leaving after its time: %v", err)
	}
}

// The time of a refusal does not reveal whether a username exists. The test compares the shortest of several
// tries: chance can slow a machine down, but not speed it up.
func TestUnknownNamesCostTheSame(t *testing.T) {
	cost := cheap
	cost.MemoryKiB, cost.Time = 4096, 2
	f := open(t, storetest.Open(t), cost)
	f.signUp(t, "mina")
	cheaper := cost
	cheaper.MemoryKiB /= 4
	open(t, f.pool, cheaper).signUp(t, "olga") // the hash was made before the cost was raised
	tries := map[string][]time.Duration{}
	for range 10 {
		for _, name := range []string{"mina", "nora", "im possible", "", "olga"} {
			began := time.Now()
			if _, err := f.SignIn(t.Context(), name, "another password"); !errors.Is(err, account.ErrCredentials) {
				t.Fatalf("%s: %v", name, err)
			}
			tries[name] = append(tries[name], time.Since(began))
		}
	}
	known := slices.Min(tries["mina"])
	for name, took := range tries {
		if shortest := slices.Min(took); shortest < known/2 || shortest > known*2 {
			t.Errorf("%q takes %s, a known name %s", name, shortest, known)
		}
	}
}

// A sign-in replaces the hash by the one that a new member would get.
func TestHashIsRenewed(t *testing.T) {
	old := open(t, storetest.Open(t), cheap)
	old.signUp(t, "mina")
	stored := func() string {
		t.Helper()
		c, err := old.store.Credentials(t.Context(), "mina")
		if err != nil {
			t.Fatal(err)
		}
		return c.PasswordHash
	}
	dearer := cheap
	dearer.Time = 2
	f := open(t, old.pool, dearer)
	before := stored()
	if _, err := f.SignIn(t.Context(), "mina", "another password"); !errors.Is(err, account.ErrCredentials) ||
		stored() != before {
		t.Errorf("a wrong password: %v, %s", err, stored())
	}
	session, err := f.SignIn(t.Context(), "mina", phrase)
	renewed := stored()
	if err != nil || !strings.Contains(renewed, "t=2") {
		t.Fatalf("%s, %v", renewed, err)
	}
	if _, err := f.Me(t.Context(), session.Token); err != nil {
		t.Errorf("the session that came with the new hash: %v", err)
	}
	if _, err := f.SignIn(t.Context(), "mina", phrase); err != nil || stored() != renewed {
		t.Errorf("again: %v, %s", err, stored())
	}
	// A replica with the old configuration still runs: it accepts the hash, and replaces it by one of its own.
	if _, err := old.SignIn(t.Context(), "mina", phrase); err != nil || !strings.Contains(stored(), "t=1") {
		t.Errorf("the old configuration: %v, %s", err, stored())
	}
}

// A sign-in whose hash a concurrent sign-in has renewed is not told that the password is wrong.
func TestSignInsRenewAtOnce(t *testing.T) {
	const twins = 20
	old := open(t, storetest.Open(t), cheap)
	dearer := cheap
	dearer.Time = 2
	for round := range 20 {
		name := fmt.Sprint("mina", round)
		old.signUp(t, name)
		f := open(t, old.pool, dearer)
		var wg sync.WaitGroup
		for range twins {
			wg.Go(func() {
				if _, err := f.SignIn(context.Background(), name, phrase); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if n := storetest.Count(t, old.pool, "SELECT count(*) FROM member WHERE password_hash LIKE '%t=2%'"); n != 20 {
		t.Errorf("%d hashes are renewed", n)
	}
}

func TestFailureToRenewIsTolerated(t *testing.T) {
	proxy := pgproxy.New(t, storetest.URL(t))
	old := open(t, storetest.Connect(t, proxy.URL), cheap)
	old.signUp(t, "mina")
	dearer := cheap
	dearer.Time = 2
	f := open(t, old.pool, dearer)
	proxy.LoseAnswer.Store("renewHash")
	session, err := f.SignIn(t.Context(), "mina", phrase)
	if err != nil || proxy.Lost.Load() != 1 {
		t.Fatalf("%v, %d answers lost", err, proxy.Lost.Load())
	}
	if _, err := f.Me(t.Context(), session.Token); err != nil {
		t.Error(err)
	}
	if log := f.log.String(); !strings.Contains(log, "password hash not renewed") ||
		strings.Contains(log, "argon2id") || strings.Contains(log, "mina") {
		t.Errorf("the log: %s", log)
	}
}

func TestPasswordsWaitInTheQueue(t *testing.T) {
	full := cheap
	full.Concurrency = 0 // no caller gets a turn
	full.Wait = time.Millisecond
	f := open(t, storetest.Open(t), full)
	for _, name := range []string{"mina", "im possible"} {
		if _, err := f.SignIn(t.Context(), name, phrase); !errors.Is(err, password.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The connection breaks after the withdrawal reached Postgres and before the answer arrived, or before both.
func TestAmbiguousWithdrawal(t *testing.T) {
	proxy := pgproxy.New(t, storetest.URL(t))
	f := open(t, storetest.Connect(t, proxy.URL), cheap)
	f.signUp(t, "mina")
	session, err := f.SignIn(t.Context(), "mina", phrase)
	if err != nil {
		t.Fatal(err)
	}
	proxy.LoseAnswer.Store("eraseMember") // and the transaction with it
	if _, err := f.Withdraw(t.Context(), session.Token, phrase); err == nil || proxy.Lost.Load() != 1 {
		t.Fatalf("it did not happen, but: %v", err)
	}
	if _, err := f.Me(t.Context(), session.Token); err != nil {
		t.Errorf("still a member: %v", err)
	}
	proxy.LoseAnswer.Store("commit")
	view, err := f.Withdraw(t.Context(), session.Token, phrase)
	if err != nil || view.State != wire.Withdrawing || view.Username != nil || proxy.Lost.Load() != 2 {
		t.Errorf("a commit that happened was not found: %+v %v", view, err)
	}
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM outbox_event_essential WHERE type = 'storage.deprovision'"); n != 1 {
		t.Errorf("%d commands", n)
	}
}

// Two concurrent requests to leave are both answered.
func TestLeavingTwice(t *testing.T) {
	f := open(t, storetest.Open(t), cheap)
	f.signUp(t, "mina")
	session, err := f.SignIn(t.Context(), "mina", phrase)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			view, err := f.Withdraw(context.Background(), session.Token, phrase)
			if err != nil && !errors.Is(err, account.ErrNoSession) || err == nil && view.State != wire.Withdrawing {
				t.Errorf("%+v %v", view, err)
			}
		})
	}
	wg.Wait()
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM saga_event WHERE kind = 'withdraw'"); n != 1 {
		t.Errorf("left %d times", n)
	}
}
