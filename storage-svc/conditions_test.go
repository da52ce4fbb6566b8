package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// plight is a storage-svc that runs under a role whose settings a test may change.
type plight struct {
	*process
	role   string
	admin  *pgxpool.Pool // of the superuser
	member *memberService
}

func underRole(t *testing.T, role string) *plight {
	t.Helper()
	server := testenv.NATS(t)
	vars := environment(t, server.URL)
	migrated(t, vars)
	admin, err := pgxpool.New(t.Context(), vars["STORAGE_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	p := &plight{role: role, admin: admin, member: newMemberService(t, server.URL)}
	p.process = &process{t: t}
	p.exec("CREATE ROLE " + role + " LOGIN PASSWORD 'secret'")
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	for _, kind := range []string{"TABLES", "SEQUENCES", "FUNCTIONS"} {
		p.exec("GRANT ALL ON ALL " + kind + " IN SCHEMA public TO " + role)
	}
	u, err := url.Parse(vars["STORAGE_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "secret")
	vars["STORAGE_DATABASE_URL"] = u.String()
	p.process = start(t, vars)
	return p
}

func (p *plight) exec(sql string) {
	p.t.Helper()
	if _, err := p.admin.Exec(p.t.Context(), sql); err != nil {
		p.t.Fatal(err)
	}
}

// reconnect ends the sessions of the role, so that new ones get its new settings.
func (p *plight) reconnect() {
	p.t.Helper()
	p.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + p.role + "'")
}

// sendAll sends a command for each of n members, whose ids have a prefix of four hexadecimal digits.
func (p *plight) sendAll(prefix string, n int) {
	p.t.Helper()
	for i := range n {
		c := storageCommand(1)
		c.MemberID = fmt.Sprintf("01999e5c-0000-7000-8000-%s%08x", prefix, i)
		p.member.send(contract.StorageProvision, c)
	}
}

// operations are all requests that read or write the database: method, path and body.
var operations = [][3]string{
	{"GET", "/v1/storages"},
	{"GET", "/v1/storages/01a20435-2858-7421-b5f0-fc06fb2e3e4e"},
	{"GET", "/v1/dead-letters"},
	{"POST", "/v1/dead-letters/" + strings.Repeat("0", 64) + "/requeue"},
	{"GET", "/v1/faults"},
	{"PUT", "/v1/faults", `{"mode":"none"}`},
}

// ask calls one operation. It fails the test if no passing condition excuses the answer.
func (p *plight) ask(operation [3]string) int {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), operation[0], "http://"+p.addr+operation[1],
		strings.NewReader(operation[2]))
	if err != nil {
		p.t.Error(err)
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+p.vars["STORAGE_TOKEN"])
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	status, after := resp.StatusCode, resp.Header.Get("Retry-After")
	if status >= 500 && (status != http.StatusServiceUnavailable || after == "") {
		p.t.Errorf("%s %s: %d, Retry-After %q: %s", operation[0], operation[1], status, after, body)
	}
	return status
}

// askAll keeps calling all operations until the last of them, which takes a fifth of a second, has been called
// five times. It returns the number of answers by status.
func (p *plight) askAll() map[int]int {
	counts := make(map[int]int)
	done := make(chan struct{})
	var mu sync.Mutex
	count := func(operation [3]string) {
		status := p.ask(operation)
		mu.Lock()
		defer mu.Unlock()
		counts[status]++
	}
	var wg sync.WaitGroup
	last := len(operations) - 1
	for _, operation := range operations[:last] {
		wg.Go(func() {
			for {
				count(operation)
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range 5 {
		count(operations[last])
	}
	close(done)
	wg.Wait()
	return counts
}

func (p *plight) count(sql string, args ...any) (n int) {
	p.t.Helper()
	if err := p.admin.QueryRow(p.t.Context(), sql, args...).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// allReady waits until n storages are ready, and checks that nothing was lost, duplicated, made a dead letter
// or counted as an attempt.
func (p *plight) allReady(prefix string, n int) {
	p.t.Helper()
	like := "01999e5c-0000-7000-8000-" + prefix + "%"
	testenv.Eventually(p.t, 30*time.Second, "all storages", func() bool {
		return n == p.count("SELECT count(*) FROM storage WHERE member_id::text LIKE $1 AND status = 'ready'", like)
	})
	if most := p.count("SELECT max(attempts) FROM storage WHERE member_id::text LIKE $1", like); most != 1 {
		p.t.Errorf("%d attempts were counted", most)
	}
	if letters := p.count("SELECT count(*) FROM dead_letter"); letters != 0 {
		p.t.Errorf("%d dead letters", letters)
	}
	ledger, err := os.ReadFile(p.vars["PROVIDER_LEDGER"])
	if err != nil {
		p.t.Fatal(err)
	}
	created := 0
	for line := range strings.Lines(string(ledger)) {
		if strings.Contains(line, "-7000-8000-"+prefix) {
			created++
		}
	}
	if created != n {
		p.t.Errorf("%d storages were created for %d members", created, n)
	}
}

// Whatever happens in Postgres while storages are commanded and created, each is created, once, and no
// operation is answered 500.
func TestNoConditionOfPostgresLosesAStorage(t *testing.T) {
	const members = 60
	p := underRole(t, "test_storage_conditions")
	p.exec(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	IF random() < 0.3 THEN
		RAISE EXCEPTION 'injected' USING ERRCODE = current_setting('test.code');
	END IF;
	RETURN NEW;
END $$`)
	type condition struct {
		name, begin, end string
		during           string // repeated while the condition lasts
	}
	all := []condition{{"terminated", "", "", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity " +
		"WHERE usename = '" + p.role + "' AND random() < 0.3; SELECT pg_sleep(0.1)"}}
	set := func(setting, value, during string) {
		all = append(all, condition{setting, "ALTER ROLE " + p.role + " SET " + setting + " = " + value,
			"ALTER ROLE " + p.role + " RESET " + setting, during})
	}
	const locked = "BEGIN; LOCK TABLE storage IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.3); " +
		"COMMIT; SELECT pg_sleep(0.05)"
	set("lock_timeout", "100", locked)
	set("statement_timeout", "100", locked)
	set("default_transaction_isolation", "serializable", "")
	set("idle_in_transaction_session_timeout", "1", "")
	all = append(all, condition{"connection_limit", "ALTER ROLE " + p.role + " CONNECTION LIMIT 2",
		"ALTER ROLE " + p.role + " CONNECTION LIMIT -1", ""})
	for _, code := range []string{"40001", "53100", "25006", "57P01", "08006"} {
		all = append(all, condition{"raised_" + code, "ALTER ROLE " + p.role + " SET test.code = '" + code + "';" +
			"CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON storage FOR EACH ROW EXECUTE FUNCTION fail()",
			"DROP TRIGGER fail ON storage", ""})
	}
	for i, c := range all {
		t.Run(c.name, func(t *testing.T) {
			prefix := fmt.Sprintf("%04x", i+1)
			if c.begin != "" {
				p.exec(c.begin)
				p.reconnect()
			}
			over := p.repeat(c.during)
			p.sendAll(prefix, members)
			t.Log(p.askAll())
			testenv.Eventually(t, 20*time.Second, "some of them", func() bool {
				return p.count("SELECT count(*) FROM storage WHERE member_id::text LIKE $1", "%-"+prefix+"%") > 0
			})
			over()
			if c.end != "" {
				p.exec(c.end)
				p.reconnect()
			}
			p.allReady(prefix, members)
		})
	}
}

// repeat runs sql as the superuser again and again until the returned function is called.
func (p *plight) repeat(sql string) (over func()) {
	if sql == "" {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := p.admin.Exec(context.Background(), sql); err != nil {
				p.t.Error(err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	return func() { close(done); <-ended }
}

// While storages are created, a role may not write for a while, as after a failover to a server that is not
// promoted yet.
func TestReadOnlyRoleAndBack(t *testing.T) {
	const members = 100
	p := underRole(t, "test_storage_readonly")
	p.sendAll("0001", members)
	testenv.Eventually(t, 20*time.Second, "the first storage", func() bool {
		return p.count("SELECT count(*) FROM storage WHERE status = 'ready'") > 0
	})
	p.exec("ALTER ROLE " + p.role + " SET default_transaction_read_only = on")
	p.reconnect()
	testenv.Eventually(t, 10*time.Second, "503 from the probe", func() bool {
		status, _ := p.call("GET", "/readyz", "")
		return status == http.StatusServiceUnavailable
	})
	written := p.count("SELECT sum(version)::int FROM storage")
	p.sendAll("0002", members)
	if counts := p.askAll(); counts[http.StatusServiceUnavailable] == 0 || counts[http.StatusOK] != 0 {
		t.Errorf("answers while nothing can be written: %v", counts)
	}
	if now := p.count("SELECT sum(version)::int FROM storage"); now != written {
		t.Error("a role that may not write has written")
	}
	p.exec("ALTER ROLE " + p.role + " RESET default_transaction_read_only")
	began := time.Now()
	testenv.Eventually(t, 3*time.Second, "readiness", func() bool {
		status, _ := p.call("GET", "/readyz", "")
		return status == http.StatusOK
	})
	p.allReady("0001", members)
	p.allReady("0002", members)
	t.Logf("all ready after %s", time.Since(began))
}

// Postgres vanishes without closing its connections, in the middle of a batch of commands. Once new connections
// are possible, everything continues within 15 s.
func TestServerVanishesWithoutAWord(t *testing.T) {
	const members, bound = 100, 15 * time.Second
	server := testenv.NATS(t)
	vars := environment(t, server.URL)
	migrated(t, vars)
	proxy := testenv.NewProxy(t, vars["STORAGE_DATABASE_URL"])
	admin, err := pgxpool.New(t.Context(), vars["STORAGE_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	vars["STORAGE_DATABASE_URL"] = proxy.URL
	p := &plight{process: start(t, vars), admin: admin, member: newMemberService(t, server.URL)}
	p.sendAll("0001", members)
	testenv.Eventually(t, 20*time.Second, "the first storage", func() bool {
		return p.count("SELECT count(*) FROM storage WHERE status = 'ready'") > 0
	})
	proxy.Deafen()
	p.sendAll("0002", members)
	if counts := p.askAll(); counts[http.StatusServiceUnavailable] == 0 || counts[http.StatusOK] != 0 {
		t.Errorf("answers meanwhile: %v", counts)
	}
	proxy.Reopen()
	began := time.Now()
	testenv.Eventually(t, bound, "new storages", func() bool {
		return p.count("SELECT count(*) FROM storage WHERE member_id::text LIKE '%-0002%' AND status = 'ready'") > 0
	})
	t.Logf("the first new storage is ready after %s", time.Since(began))
	p.allReady("0002", members)
	p.allReady("0001", members)
	t.Logf("all are ready after %s", time.Since(began))
}

// Every operation is called while all tables are locked for longer than anybody waits.
func TestNoOperationAnswers500WhileTablesAreLocked(t *testing.T) {
	nats := testenv.NATS(t)
	vars := environment(t, nats.URL)
	migrated(t, vars)
	admin, err := pgx.Connect(t.Context(), vars["STORAGE_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	_, err = admin.Exec(t.Context(), `DO $$ BEGIN
EXECUTE format('ALTER DATABASE %I SET lock_timeout = 50', current_database()); END $$`)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, vars)
	tx, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), `SET LOCAL lock_timeout = 0; DO $$ DECLARE r record; BEGIN
FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
LOOP EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', r.tablename); END LOOP; END $$`)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range operations {
		if status, answer := p.call(r[0], r[1], r[2]); status != http.StatusServiceUnavailable {
			t.Errorf("%s %s: %d %s", r[0], r[1], status, answer)
		}
	}
	if status, answer := p.call("GET", "/metrics", ""); status != http.StatusOK {
		t.Errorf("metrics: %d %s", status, answer)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}
