package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// underRole runs the service with a role whose settings a test may change; admin is the superuser.
func underRole(t *testing.T, role string) (s *svc, admin *pgxpool.Pool) {
	t.Helper()
	u, err := url.Parse(storetest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	admin = storetest.Connect(t, u.String())
	storetest.Exec(t, admin, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	for _, kind := range []string{"TABLES", "SEQUENCES", "FUNCTIONS"} {
		storetest.Exec(t, admin, "GRANT ALL ON ALL "+kind+" IN SCHEMA public TO "+role)
	}
	u.User = url.UserPassword(role, "secret")
	return start(t, environment(t, u.String(), "nats://127.0.0.1:1")), admin
}

// reconnect ends the database sessions of a role. New sessions have its new settings.
func reconnect(t *testing.T, admin *pgxpool.Pool, role string) {
	t.Helper()
	storetest.Exec(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+role+"'")
}

// statuses counts answers. It fails the test for a 5xx answer other than a 503 with Retry-After.
type statuses struct {
	t      *testing.T
	mu     sync.Mutex
	counts map[int]int
}

func (c *statuses) add(what string, status int, header http.Header, body string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[int]int{}
	}
	c.counts[status]++
	if status >= 500 && (status != http.StatusServiceUnavailable || header.Get("Retry-After") == "") {
		c.t.Errorf("%s: %d, Retry-After %q: %s", what, status, header.Get("Retry-After"), body)
	}
}

func (c *statuses) of(status int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[status]
}

// crowd signs up n members concurrently, each with their own idempotency key.
func crowd(t *testing.T, s *svc, c *statuses, prefix string, n int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("%s%d", prefix, i)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.public+"/v1/members",
				strings.NewReader(fmt.Sprintf(`{"username":%q,"password":%q}`, name, phrase)))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Idempotency-Key", "key-"+name)
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			c.add("sign up", resp.StatusCode, resp.Header, string(body))
		})
	}
	wg.Wait()
}

// Whatever happens in Postgres while 120 people sign up at once, nobody gets a 500, nobody is lost, and nobody
// exists twice.
func TestNoConditionOfPostgresIsAnswered500(t *testing.T) {
	const role, people = "test_conditions", 120
	s, admin := underRole(t, role)
	storetest.Exec(t, admin, `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	IF random() < 0.5 THEN
		RAISE EXCEPTION 'injected' USING ERRCODE = current_setting('test.code');
	END IF;
	RETURN NEW;
END $$`)
	type condition struct {
		name, begin, end string
		lock             time.Duration // how long the table of members is locked
	}
	var all []condition
	add := func(name string, lock time.Duration, begin, end string) {
		all = append(all, condition{name, begin, end, lock})
	}
	set := func(name string, lock time.Duration, setting, value string) {
		add(name, lock, "ALTER ROLE "+role+" SET "+setting+" = "+value, "ALTER ROLE "+role+" RESET "+setting)
	}
	set("lock_timeout", 4*time.Second, "lock_timeout", "500")
	set("statement_timeout", 300*time.Millisecond, "statement_timeout", "100")
	set("serializable", 0, "default_transaction_isolation", "serializable")
	set("idle_in_transaction", 0, "idle_in_transaction_session_timeout", "1")
	add("connection_limit", 0, "ALTER ROLE "+role+" CONNECTION LIMIT 3", "ALTER ROLE "+role+" CONNECTION LIMIT -1")
	for _, code := range []string{"40001", "40P01", "53100", "53200", "25006", "58030", "55006", "57P01", "08006"} {
		add("raised_"+code, 0, "ALTER ROLE "+role+" SET test.code = '"+code+"';"+
			"CREATE TRIGGER fail BEFORE INSERT ON member FOR EACH ROW EXECUTE FUNCTION fail()",
			"DROP TRIGGER fail ON member")
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			storetest.Exec(t, admin, c.begin)
			reconnect(t, admin, role)
			prefix := strings.ReplaceAll(c.name, "_", "")
			during := &statuses{t: t}
			var wg sync.WaitGroup
			if c.lock > 0 {
				tx, err := admin.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tx.Exec(t.Context(), "LOCK TABLE member IN ACCESS EXCLUSIVE MODE"); err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					<-time.After(c.lock)
					_ = tx.Rollback(t.Context())
				})
			}
			crowd(t, s, during, prefix, people)
			wg.Wait()
			storetest.Exec(t, admin, c.end)
			reconnect(t, admin, role)
			t.Logf("%s: %v", c.name, during.counts)
			testenv.Eventually(t, 30*time.Second, "every signup to be accepted", func() bool {
				after := &statuses{t: t}
				crowd(t, s, after, prefix, people)
				return after.of(http.StatusCreated) == people
			})
			n := storetest.Count(t, admin, "SELECT count(*) FROM member WHERE username LIKE $1", prefix+"%")
			sagas := storetest.Count(t, admin,
				"SELECT count(*) FROM signup_saga s JOIN member m ON m.id = s.member_id "+
					"WHERE m.username LIKE $1", prefix+"%")
			if n != people || sagas != people {
				t.Errorf("%d members and %d sagas of %d people", n, sagas, people)
			}
		})
	}
}

// Every operation of both listeners, while all tables are locked for longer than any request waits.
func TestNoOperationAnswers500WhileTablesAreLocked(t *testing.T) {
	const role = "test_locked"
	s, admin := underRole(t, role)
	body := signUp(t, s, "mina")
	credentials := fmt.Sprintf(`{"username":"mina","password":%q}`, phrase)
	status, _, session, raw := call(t, "POST", s.public+"/v1/sessions", credentials)
	if status != http.StatusOK {
		t.Fatalf("sign in: %d %s", status, raw)
	}
	var sagaID string
	if err := admin.QueryRow(t.Context(), "SELECT id::text FROM signup_saga").Scan(&sagaID); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, admin, "ALTER ROLE "+role+" SET lock_timeout = 50")
	reconnect(t, admin, role)
	tx, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), `DO $$ DECLARE r record; BEGIN
FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
LOOP EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', r.tablename); END LOOP; END $$`)
	if err != nil {
		t.Fatal(err)
	}
	reason := `{"reason":"a test"}`
	token := fmt.Sprint("Bearer ", session["token"])
	none := "01a20435-2858-7421-b5f0-fc06fb2e3e4e"
	requests := [][4]string{
		{"POST", s.public + "/v1/members", fmt.Sprintf(`{"username":"otto","password":%q}`, phrase)},
		{"GET", s.self(body)},
		{"POST", s.public + "/v1/sessions", credentials},
		{"GET", s.public + "/v1/members/me", "", token},
		{"DELETE", s.public + "/v1/members/me", fmt.Sprintf(`{"password":%q}`, phrase), token},
		{"DELETE", s.public + "/v1/sessions/current", "", token},
	}
	for _, path := range []string{
		"sagas", "sagas/" + sagaID, "overview", "failures", "retries", "retries/" + none, "outbox/dead", "audit",
	} {
		requests = append(requests, [4]string{"GET", s.admin + "/admin/v1/" + path, "", "Bearer operator-token"})
	}
	for path, body := range map[string]string{
		"sagas/" + sagaID + "/retry": reason, "sagas/" + sagaID + "/cancel": reason,
		"retries/" + none + "/cancel": reason,
		"retries":                     `{"reason":"a test","filter":{}}`, "outbox/dead/essential-1/requeue": reason,
	} {
		requests = append(requests, [4]string{"POST", s.admin + "/admin/v1/" + path, body, "Bearer operator-token"})
	}
	c := &statuses{t: t}
	var unavailable atomic.Int64
	for _, r := range requests {
		headers := []string{"If-Match", "*"}
		if r[3] != "" {
			headers = append(headers, "Authorization", r[3])
		}
		status, header, _, raw := call(t, r[0], r[1], r[2], headers...)
		c.add(r[0]+" "+r[1], status, header, raw)
		if status == http.StatusServiceUnavailable {
			unavailable.Add(1)
		} else {
			t.Logf("%s %s: %d %s", r[0], r[1], status, raw)
		}
	}
	if unavailable.Load() < 10 {
		t.Errorf("%d of %d requests met the lock", unavailable.Load(), len(requests))
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// load keeps n clients signing up, one name after the other, and counts how many signups were created and how
// many were refused with 503.
func load(t *testing.T, s *svc, prefix string, n int) (created, refused *atomic.Int64, stop func()) {
	t.Helper()
	created, refused = new(atomic.Int64), new(atomic.Int64)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-done:
					return
				default:
				}
				one := &statuses{t: t}
				crowd(t, s, one, fmt.Sprintf("%s%dx%dx", prefix, i, k), 1)
				created.Add(int64(one.of(http.StatusCreated)))
				refused.Add(int64(one.of(http.StatusServiceUnavailable)))
			}
		})
	}
	return created, refused, func() { close(done); wg.Wait() }
}

// A role that may not write for a while, as after a failover to a server that is not promoted yet.
func TestReadOnlyRoleAndBack(t *testing.T) {
	const role, busy = "test_readonly", 16
	s, admin := underRole(t, role)
	ready := func() int {
		status, _, _, _ := call(t, "GET", s.admin+"/readyz", "")
		return status
	}
	for name, terminate := range map[string]bool{"terminated": true, "left": false} {
		t.Run(name, func(t *testing.T) {
			created, refused, stop := load(t, s, name, busy)
			defer stop()
			testenv.Eventually(t, 20*time.Second, "some load", func() bool { return created.Load() > busy })
			storetest.Exec(t, admin, "ALTER ROLE "+role+" SET default_transaction_read_only = on")
			if terminate {
				reconnect(t, admin, role)
				testenv.Eventually(t, 10*time.Second, "503 for signups and probes", func() bool {
					return refused.Load() > busy && ready() == http.StatusServiceUnavailable
				})
				before := created.Load()
				testenv.Eventually(t, 10*time.Second, "more of it", func() bool { return refused.Load() > 20*busy })
				if now := created.Load(); now > before {
					t.Errorf("%d signups were written by a role that may not write", now-before)
				}
			}
			storetest.Exec(t, admin, "ALTER ROLE "+role+" RESET default_transaction_read_only")
			began, before := time.Now(), created.Load()
			testenv.Eventually(t, 3*time.Second, "a signup", func() bool { return created.Load() > before })
			t.Logf("first 201 after %s; %d created, %d refused", time.Since(began), created.Load(), refused.Load())
			testenv.Eventually(t, 3*time.Second, "readiness", func() bool { return ready() == http.StatusOK })
			before = refused.Load()
			testenv.Eventually(t, 10*time.Second, "signups", func() bool { return created.Load() > 10*busy })
			if now := refused.Load(); now > before+busy {
				t.Errorf("%d signups were refused after all was well", now-before)
			}
		})
	}
}

// A saga that another writer changes each time between our read and our write: requests get 503, and replies
// wait.
func TestMissedSwapsAreNotDefects(t *testing.T) {
	broker := testenv.NATS(t)
	answer := make(chan struct{})
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		<-answer
		return contract.StorageProvisioned, nil
	})
	url := storetest.URL(t)
	admin := storetest.Connect(t, url)
	s := start(t, environment(t, url, broker.URL))
	body := signUp(t, s, "mina")
	credentials := fmt.Sprintf(`{"username":"mina","password":%q}`, phrase)
	_, _, session, _ := call(t, "POST", s.public+"/v1/sessions", credentials)
	var sagaID string
	if err := admin.QueryRow(t.Context(), "SELECT id::text FROM signup_saga").Scan(&sagaID); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, admin, `CREATE FUNCTION miss() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER miss BEFORE UPDATE ON signup_saga FOR EACH ROW EXECUTE FUNCTION miss()`)
	close(answer)
	own, token := fmt.Sprintf(`{"password":%q}`, phrase), fmt.Sprint("Bearer ", session["token"])
	for _, r := range [][4]string{
		{"DELETE", s.public + "/v1/members/me", own, token},
		{"POST", s.admin + "/admin/v1/sagas/" + sagaID + "/cancel", `{"reason":"a test"}`, "Bearer operator-token"},
	} {
		status, header, _, raw := call(t, r[0], r[1], r[2], "Authorization", r[3])
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %d, Retry-After %q: %s", r[0], r[1], status, header.Get("Retry-After"), raw)
		}
	}
	testenv.Eventually(t, 20*time.Second, "the reply to be put off", func() bool {
		return strings.Contains(s.log.String(), `"task":"handle STORAGE_`)
	})
	storetest.Exec(t, admin, "DROP TRIGGER miss ON signup_saga")
	s.awaitState(t, body, "ready")
}

// Postgres becomes unreachable: packets are dropped in both directions, and no connection is closed. Requests
// get 503. Once new connections work, signups, relays and timers work again within 15 s.
func TestServerVanishesWithoutAWord(t *testing.T) {
	const bound = 15 * time.Second
	broker := testenv.NATS(t)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		return contract.StorageProvisioned, nil
	})
	proxy := testenv.NewProxy(t, storetest.URL(t))
	s := start(t, environment(t, proxy.URL, broker.URL))
	c := &statuses{t: t}
	crowd(t, s, c, "before", 60) // opens all connections
	s.awaitState(t, signUp(t, s, "mina"), "ready")
	proxy.Deafen()
	c = &statuses{t: t}
	crowd(t, s, c, "meanwhile", 60)
	if c.of(http.StatusServiceUnavailable) != 60 {
		t.Errorf("answers meanwhile: %v", c.counts)
	}
	proxy.Reopen()
	began := time.Now()
	testenv.Eventually(t, bound, "signups", func() bool {
		after := &statuses{t: t}
		crowd(t, s, after, "after", 1)
		return after.of(http.StatusCreated) == 1
	})
	t.Logf("first 201 after %s", time.Since(began))
	_, _, late, _ := call(t, "POST", s.public+"/v1/members", fmt.Sprintf(`{"username":"late","password":%q}`, phrase))
	testenv.Eventually(t, bound-time.Since(began), "the relay and the replies", func() bool {
		_, _, got, _ := call(t, "GET", s.self(late), "")
		return got["state"] == "ready"
	})
	t.Logf("ready after %s", time.Since(began))
}

// The primary dies, or all packets to it are dropped, and the standby is promoted: signups work again within 3
// s, and no signup that was answered 201 is lost. When the old primary returns as a standby, requests are not
// affected.
func TestFailoverToAPromotedStandby(t *testing.T) {
	const busy = 16
	for name, lose := range map[string]func(*testenv.Pair){
		"killed": func(p *testenv.Pair) { p.Kill(0) },
		"silent": func(p *testenv.Pair) { p.Proxies[0].Deafen() },
	} {
		t.Run(name, func(t *testing.T) {
			pair := testenv.NewPair(t)
			env := environment(t, pair.URL, "nats://127.0.0.1:1")
			getenv := func(name string) string { return env[name] }
			if err := run(t.Context(), []string{"migrate"}, getenv, io.Discard); err != nil {
				t.Fatal(err)
			}
			s := start(t, env)
			ready := func() int {
				status, _, _, _ := call(t, "GET", s.admin+"/readyz", "")
				return status
			}
			created, refused, stop := load(t, s, name, busy)
			stop = sync.OnceFunc(stop)
			defer stop()
			testenv.Eventually(t, 20*time.Second, "some load", func() bool { return created.Load() > busy })
			lose(pair)
			testenv.Eventually(t, 20*time.Second, "503 for signups and probes", func() bool {
				return refused.Load() > busy && ready() == http.StatusServiceUnavailable
			})
			before := created.Load()
			began := time.Now()
			pair.Promote(1)
			testenv.Eventually(t, 3*time.Second, "a signup", func() bool { return created.Load() > before })
			t.Logf("first 201 %s after the promotion was asked for; %d created, %d refused",
				time.Since(began), created.Load(), refused.Load())
			testenv.Eventually(t, 5*time.Second, "readiness", func() bool { return ready() == http.StatusOK })
			if name == "silent" {
				pair.Kill(0)
			}
			pair.ReturnAsStandby(0)
			admin := storetest.Connect(t, pair.Servers[1])
			storetest.Exec(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "+
				"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()") // new connections may choose
			before, left := created.Load(), refused.Load()
			testenv.Eventually(t, 10*time.Second, "more signups", func() bool {
				return created.Load() > before+10*busy
			})
			if now := refused.Load(); now > left+2*busy {
				t.Errorf("%d signups were refused because a standby came back", now-left)
			}
			stop()
			members := storetest.Count(t, admin, "SELECT count(*) FROM member")
			if int64(members) < created.Load() {
				t.Errorf("%d members of %d who were answered 201", members, created.Load())
			}
		})
	}
}
