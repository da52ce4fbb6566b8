package signup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/devstack/testenv/pgproxy"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var cheap = password.HashConfig{Cost: password.Cost{MemoryKiB: 8, Time: 1, Parallelism: 1}, Concurrency: 2,
	Wait: 5 * time.Second}

const good = "correct horse battery"

// members signs members up as the API does.
type members struct{ *signup.Service }

func (s members) SignUp(ctx context.Context, req wire.NewMember, key string) (signup.Answer, error) {
	username, _ := signup.UsernameKey(req.Username)
	return s.Service.SignUp(ctx, req, username, key)
}

func newService(pool *pgxpool.Pool) members { return configured(pool, false) }

func configured(pool *pgxpool.Pool, unicode bool) members {
	st := store.New(pool, storetest.Steps, storetest.Secret, func() {})
	return members{signup.New(signup.Config{
		Plans: []string{"free", "plus"}, Passwords: password.Policy{MinLength: 15},
		Unicode: unicode, Reserved: signup.ParseReserved("standard"),
		Secret: []byte(strings.Repeat("s", 32)), DatabaseTimeout: 2500 * time.Millisecond,
	}, st, password.NewHasher(cheap), storetest.Steps)}
}

func TestSignUpIsOneRoundTripBesideTheLookUp(t *testing.T) {
	proxy := pgproxy.New(t, storetest.URL(t))
	pool := storetest.Connect(t, proxy.URL)
	s := newService(pool)
	request := func(name string) {
		t.Helper()
		if _, err := s.SignUp(t.Context(), wire.NewMember{Username: name, Password: good, Email: name + "@example.org"},
			"key-"+name); err != nil {
			t.Fatal(err)
		}
	}
	request("mina") // the first one also prepares the statements
	before := proxy.Syncs.Load()
	request("nora")
	if n := proxy.Syncs.Load() - before; n != 2 {
		t.Errorf("%d round trips, want 2: the look-up and the commit", n)
	}
	if n := storetest.Count(t, pool,
		"SELECT count(DISTINCT xmin::text) FROM (SELECT m.xmin FROM member m WHERE username = 'nora' UNION ALL "+
			"SELECT k.xmin FROM idempotency_key k WHERE key = 'key-nora' UNION ALL SELECT s.xmin FROM signup_saga s "+
			"JOIN member m ON m.id = s.member_id WHERE username = 'nora') x"); n != 1 {
		t.Errorf("rows of %d transactions, want 1", n)
	}
}

func TestTwinsOfOneKeyMakeOneMember(t *testing.T) {
	pool := storetest.Open(t)
	s := newService(pool)
	bodies, replays := map[string]int{}, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a, err := s.SignUp(context.Background(), wire.NewMember{Username: "mina", Password: good}, "the-key")
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			bodies[string(a.Body)]++
			if a.Replayed {
				replays++
			}
		})
	}
	wg.Wait()
	if len(bodies) != 1 || replays != 49 {
		t.Errorf("%d different bodies, %d replays; want 1 and 49", len(bodies), replays)
	}
	if n := storetest.Count(t, pool, "SELECT count(*) FROM member"); n != 1 {
		t.Errorf("%d members", n)
	}
	_, err := s.SignUp(t.Context(), wire.NewMember{Username: "other", Password: good}, "the-key")
	if !errors.Is(err, signup.ErrKeyReused) {
		t.Errorf("other body: %v", err)
	}
	storetest.Exec(t, pool, "UPDATE idempotency_key SET expires_at = now()")
	_, err = s.SignUp(t.Context(), wire.NewMember{Username: "mina", Password: good}, "the-key")
	if !errors.Is(err, signup.ErrTaken) {
		t.Errorf("after the key's time: %v", err)
	}
}

func TestOneUsernameOnce(t *testing.T) {
	pool := storetest.Open(t)
	s := newService(pool)
	var mu sync.Mutex
	outcomes := map[error]int{}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			name := []string{"mina", "MINA", "Mina"}[i%3]
			_, err := s.SignUp(context.Background(), wire.NewMember{Username: name, Password: good},
				fmt.Sprint("key", i))
			mu.Lock()
			defer mu.Unlock()
			outcomes[err]++
		})
	}
	wg.Wait()
	if outcomes[nil] != 1 || outcomes[signup.ErrTaken] != 19 {
		t.Errorf("%v", outcomes)
	}
}

func TestUsernamesOfAllScripts(t *testing.T) {
	s := configured(storetest.Open(t), true)
	for _, tc := range []struct{ name, want string }{
		{"Müller", ""}, {"mu\u0308ller", "taken"}, {"李小龍", ""}, {"ｍｉｎａ", ""}, {"Mina", "taken"},
		{"mіna", ""}, // with a Cyrillic letter: lookalikes are different names
		{strings.Repeat("ж", 30), ""}, {strings.Repeat("ж", 31), "not valid"}, {"жж", "not valid"},
		{"mi na", "not valid"},
	} {
		_, err := s.SignUp(t.Context(), wire.NewMember{Username: tc.name, Password: good}, "")
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// The connection breaks after the commit reached Postgres and before the answer arrived.
func TestAmbiguousCommit(t *testing.T) {
	proxy := pgproxy.New(t, storetest.URL(t))
	pool := storetest.Connect(t, proxy.URL)
	s := newService(pool)
	req := wire.NewMember{Username: "mina", Password: good}
	if _, err := s.SignUp(t.Context(), wire.NewMember{Username: "warm", Password: good}, "warm"); err != nil {
		t.Fatal(err)
	}
	proxy.LoseAnswer.Store("insertMember")
	first, err := s.SignUp(t.Context(), req, "the-key")
	if err != nil || first.Replayed {
		t.Fatalf("a commit that happened was not found: %v", err)
	}
	again, err := s.SignUp(t.Context(), req, "the-key")
	if err != nil || !again.Replayed || string(again.Body) != string(first.Body) || again.SignupID != first.SignupID {
		t.Errorf("retry: %+v, %v", again, err)
	}
	if n := storetest.Count(t, pool, "SELECT count(*) FROM member WHERE username = 'mina'"); n != 1 {
		t.Errorf("%d members", n)
	}
	if proxy.Lost.Load() != 1 {
		t.Errorf("%d answers lost: the test proved nothing", proxy.Lost.Load())
	}
	// The same holds without a key: the signup id finds our own signup.
	proxy.LoseAnswer.Store("insertMember")
	if _, err := s.SignUp(t.Context(), wire.NewMember{Username: "nora", Password: good}, ""); err != nil {
		t.Errorf("without a key: %v", err)
	}
}

func TestPostgresOutageIsReportedInTime(t *testing.T) {
	proxy := pgproxy.New(t, storetest.URL(t))
	pool := storetest.Connect(t, proxy.URL)
	s := newService(pool)
	req := wire.NewMember{Username: "mina", Password: good}
	for name, set := range map[string]func(bool){"stopped": proxy.Refuse.Store, "paused": proxy.Pause.Store} {
		if _, err := s.SignUp(t.Context(), wire.NewMember{Username: "before-" + name, Password: good}, ""); err != nil {
			t.Fatal(err)
		}
		set(true)
		if name == "stopped" {
			proxy.BreakAll()
		}
		began := time.Now()
		_, err := s.SignUp(t.Context(), req, "")
		if took := time.Since(began); !service.Unavailable(err) || took > 3*time.Second {
			t.Errorf("%s: %v after %s", name, err, took)
		}
		set(false)
		if name == "paused" {
			proxy.BreakAll()
		}
		testenv.Eventually(t, 5*time.Second, "a signup after Postgres is back", func() bool {
			_, err := s.SignUp(t.Context(), wire.NewMember{Username: "after-" + name, Password: good}, "")
			return err == nil
		})
	}
	if n := storetest.Count(t, pool, "SELECT count(*) FROM member WHERE username = 'mina'"); n != 0 {
		t.Errorf("%d members by requests that failed", n)
	}
}

func TestFind(t *testing.T) {
	s := newService(storetest.Open(t))
	a, err := s.SignUp(t.Context(), wire.NewMember{Username: "Mina", Password: good, Plan: "plus"}, "")
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Find(t.Context(), a.SignupID)
	if err != nil || *v.Username != "Mina" || v.Plan != "plus" || v.Storage.Status != "pending" ||
		v.Storage.QuotaBytes != 100<<30 || v.Delayed ||
		v.Links["self"] != "/v1/signups/"+a.SignupID || v.Links["events"] != v.Links["self"]+"/events" ||
		len(v.Links) != 2 {
		t.Errorf("%+v %v", v, err)
	}
	for _, id := range []string{"", "sgn_", "sgn_00", a.SignupID + "0", "sgn_\x00", "x"} {
		if _, err := s.Find(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestInvalidRequests(t *testing.T) {
	s := newService(storetest.Open(t))
	for name, tc := range map[string]struct {
		change func(*wire.NewMember)
		want   string
	}{
		"short username":     {func(r *wire.NewMember) { r.Username = "mi" }, "/username"},
		"long username":      {func(r *wire.NewMember) { r.Username = strings.Repeat("m", 31) }, "/username"},
		"space in username":  {func(r *wire.NewMember) { r.Username = "mi na" }, "/username"},
		"umlaut in username": {func(r *wire.NewMember) { r.Username = "mïna" }, "/username"},
		"wide username":      {func(r *wire.NewMember) { r.Username = "ｍｉｎａ" }, "/username"},
		"short password":     {func(r *wire.NewMember) { r.Password = "fourteen chars" }, "/password"},
		"long password":      {func(r *wire.NewMember) { r.Password = strings.Repeat("ab cd efg", 30) }, "/password"},
		"repeated word":      {func(r *wire.NewMember) { r.Password = "PasswordPassword1" }, "/password"},
		"keyboard row":       {func(r *wire.NewMember) { r.Password = "qwertyuiop123456789" }, "/password"},
		"one character":      {func(r *wire.NewMember) { r.Password = strings.Repeat("a", 20) }, "/password"},
		"own name":           {func(r *wire.NewMember) { r.Password = "minaminaminamina1" }, "/password"},
		"plan":               {func(r *wire.NewMember) { r.Plan = "pro" }, "/plan"},
		"email":              {func(r *wire.NewMember) { r.Email = "Mina <mina@example.org>" }, "/email"},
		"reserved username":  {func(r *wire.NewMember) { r.Username = "Supp0rt" }, "/username"},
		"email without dot":  {func(r *wire.NewMember) { r.Email = "mina@localhost" }, "/email"},
		"unseen in email":    {func(r *wire.NewMember) { r.Email = "mina\u200b@example.org" }, "/email"},
		"email header": {func(r *wire.NewMember) { r.Email = "mina@example.org\r\nBcc: x@example.org" },
			"/email"},
	} {
		req := wire.NewMember{Username: "mina", Password: good}
		tc.change(&req)
		_, err := s.SignUp(t.Context(), req, "")
		var invalid signup.Invalid
		if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Pointer != tc.want {
			t.Errorf("%s: %+v, want %s", name, err, tc.want)
		}
	}
	for _, password := range []string{"påsswörd-är-löng", "fifteen charact", strings.Repeat("ab cd efgh", 25) +
		"123456"} {
		if _, err := s.SignUp(t.Context(),
			wire.NewMember{Username: fmt.Sprintf("ok%d", len(password)), Password: password}, ""); err != nil {
			t.Errorf("%q: %v", password, err)
		}
	}
}
