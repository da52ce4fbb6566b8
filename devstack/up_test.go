package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/internal/stack"
)

// upStack starts a stack in which the test program acts as the services, and waits until the stack's settings
// are written.
func upStack(t *testing.T, tmp, dir string, args ...string) (*running, map[string]string) {
	t.Helper()
	up := launch(t, tmp, nil, append([]string{"up", "--dir", dir, "--bin", bin(t), "--hash-cost", "test"}, args...)...)
	file := filepath.Join(dir, "devstack.env")
	eventually(t, "devstack.env", func() bool {
		select {
		case <-up.done:
			t.Fatalf("devstack ended: %v\n%s", up.err, up.printed(t))
		default:
		}
		_, err := os.Stat(file)
		return err == nil
	})
	return up, readEnv(t, file)
}

func readEnv(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	env := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok || value == "" {
			t.Errorf("line %q", lines.Text())
		}
		env[name] = value
	}
	return env
}

func status(t *testing.T, dir string) map[string]stack.ComponentStatus {
	t.Helper()
	out, err := devstackCmd(t, "status", "--json", "--dir", dir)
	if err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	var s stack.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatal(err)
	}
	byName := map[string]stack.ComponentStatus{}
	for _, c := range s.Components {
		byName[c.Name] = c
	}
	return byName
}

func do(t *testing.T, dir, verb, component string, want string) stack.ComponentStatus {
	t.Helper()
	out, err := devstackCmd(t, verb, component, "--dir", dir)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", verb, component, err, out)
	}
	got := status(t, dir)[component]
	if string(got.State) != want {
		t.Fatalf("after %s, %s is %s, want %s", verb, component, got.State, want)
	}
	return got
}

func TestUpPrintsHowToReachEverything(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	up, env := upStack(t, tmp, dir, "--members", "2", "--storages", "2")
	names := strings.Fields(
		`MEMBER_URL ADMIN_URL STORAGE_URL NATS_URL MEMBER_DATABASE_URL STORAGE_DATABASE_URL ADMIN_TOKEN VIEWER_TOKEN
		STORAGE_TOKEN PROVIDER_DIR PROVIDER_LEDGER NATS_DIR MAIL_URL MEMBER_URL_2 ADMIN_URL_2 STORAGE_URL_2
	DEVSTACK_DIR`)
	for _, name := range names {
		if env[name] == "" {
			t.Errorf("devstack.env lacks %s", name)
		}
		delete(env, name)
	}
	if len(env) > 0 {
		t.Errorf("devstack.env also has %v", env)
	}
	if got := len(status(t, dir)); got != 7 {
		t.Errorf("%d components, want 7", got)
	}
	for _, file := range []string{"devstack.env", "devstack.json", "admin-tokens"} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want it private", file, info, err)
		}
	}
	if kept, err := os.ReadFile(filepath.Join(dir, "devstack.json")); err != nil ||
		strings.Contains(string(kept), "fault") {
		t.Errorf("a fault screen that nobody asked for: %v\n%s", err, kept)
	}
	if printed := up.printed(t); !strings.Contains(printed, "The stack is ready") ||
		strings.Contains(printed, "break it") {
		t.Errorf("printed %s", printed)
	}
}

func TestRolesHaveOnlyTheRightsTheyNeed(t *testing.T) {
	tmp := tempDir(t)
	_, env := upStack(t, tmp, filepath.Join(tmp, "stack"))
	var kept struct{ Secrets map[string]string }
	content, err := os.ReadFile(filepath.Join(tmp, "stack", "devstack.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &kept); err != nil {
		t.Fatal(err)
	}
	app := env["MEMBER_DATABASE_URL"]
	migrator := strings.Replace(app, "member_app:"+kept.Secrets["member_app"], "member_migrator:"+
		kept.Secrets["member_migrator"], 1)
	query(t, migrator, "CREATE TABLE thing (id bigserial, name text)")
	if got := query(t, app, "INSERT INTO thing (name) VALUES ('x') RETURNING id::text"); got != "1" {
		t.Errorf("the app inserted row %q", got)
	}
	if got := query(t, app, "SELECT has_schema_privilege('public', 'CREATE')::text"); got != "false" {
		t.Error("the app may create tables")
	}
	if got := query(t, app, "SELECT has_database_privilege('storage', 'CONNECT')::text"); got != "false" {
		t.Error("the member service may enter the storage database")
	}
}

// Every component is killed, stopped and paused as far as the commands allow, and comes back on its port.
func TestComponentsAreBrokenAndRepaired(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	_, env := upStack(t, tmp, dir)
	query(t, superuser(t, dir), "CREATE TABLE kept AS SELECT 'kept' AS word")
	for _, name := range []string{"postgres", "nats", "smtp", "member", "storage"} {
		before := status(t, dir)[name]
		do(t, dir, "kill", name, "killed")
		do(t, dir, "kill", name, "killed")
		after := do(t, dir, "start", name, "running")
		if after.PID == before.PID || after.URL != before.URL {
			t.Errorf("%s was %+v and is %+v", name, before, after)
		}
		do(t, dir, "pause", name, "paused")
		do(t, dir, "resume", name, "running")
		do(t, dir, "pause", name, "paused")
		do(t, dir, "stop", name, "stopped")
		do(t, dir, "start", name, "running")
	}
	if got := query(t, superuser(t, dir), "SELECT word FROM kept"); got != "kept" {
		t.Errorf("after a kill -9 PostgreSQL returned %q", got)
	}
	if err := os.WriteFile(filepath.Join(env["NATS_DIR"], "jetstream", "stored"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, dir, "wipe", "nats", "running")
	if _, err := os.Stat(filepath.Join(env["NATS_DIR"], "jetstream", "stored")); !os.IsNotExist(err) {
		t.Errorf("a wipe left a file: %v", err)
	}
}

// superuser returns the administrator's URL of the stack's own PostgreSQL.
func superuser(t *testing.T, dir string) string {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(dir, "postgres", "password"))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("postgres://postgres:%s@%s/postgres", strings.TrimSpace(string(password)),
		status(t, dir)["postgres"].URL)
}

func TestADeathIsReportedAndNotHealed(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	up, _ := upStack(t, tmp, dir)
	if err := syscall.Kill(status(t, dir)["storage"].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the report",
		func() bool { return strings.Contains(up.printed(t), "storage ended unexpectedly: signal: killed") })
	if got := status(t, dir)["storage"]; got.State != "died" || got.Exit != "signal: killed" {
		t.Errorf("status %+v", got)
	}
	do(t, dir, "start", "storage", "running")
}

func TestSenselessCommands(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	upStack(t, tmp, dir)
	for _, c := range []struct{ args, want string }{
		{"kill storage-9", `there is no component "storage-9"; there are postgres, nats, smtp, member, storage`},
		{"wipe postgres", "only nats can be wiped"},
		{"resume nats", ""},
	} {
		out, err := devstackCmd(t, append(strings.Fields(c.args), "--dir", dir)...)
		if (err == nil) != (c.want == "") || !strings.Contains(out, c.want) {
			t.Errorf("%s: error %v, printed %s", c.args, err, out)
		}
	}
	if out, err := devstackCmd(t, "kill", "nats", "--dir", tmp); err == nil ||
		!strings.Contains(out, "no devstack runs in") {
		t.Errorf("error %v, printed %s", err, out)
	}
}

// Ctrl-C leaves no process and no temporary directory, even with one component paused and one killed.
func TestSIGINTLeavesNothing(t *testing.T) {
	tmp := tempDir(t)
	up := launch(t, tmp, nil, "up", "--bin", bin(t))
	eventually(t, "the stack", func() bool { return strings.Contains(up.printed(t), "The stack is ready") })
	dir := entries(t, tmp)[0]
	pids := livePIDs(t, dir)
	do(t, dir, "pause", "postgres", "paused")
	do(t, dir, "kill", "nats", "killed")
	if err := up.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	up.ended(t, 40*time.Second)
	if up.err != nil {
		t.Errorf("ended with %v", up.err)
	}
	nothingLeft(t, tmp)
	gone(t, pids)
}

// No process survives a kill -9 of devstack, not even a paused one.
func TestChildrenEndWhenDevstackIsKilled(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	up, _ := upStack(t, tmp, dir)
	pids := livePIDs(t, dir)
	do(t, dir, "pause", "member", "paused")
	do(t, dir, "pause", "postgres", "paused")
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	up.ended(t, 10*time.Second)
	gone(t, pids)
	if out, err := devstackCmd(t, "status", "--dir", dir); err == nil || !strings.Contains(out, "no devstack runs in") {
		t.Errorf("status: %v %s", err, out)
	}
	_, env := upStack(t, tmp, dir) // and the directory can be used again
	if env["MEMBER_URL"] == "" {
		t.Error("no MEMBER_URL")
	}
}

// With DATABASE_URL the stack uses that server, and does not start or stop it.
func TestAStackOnAGivenServer(t *testing.T) {
	tmp := tempDir(t)
	server := launch(t, tmp, nil, "postgres")
	url := server.url(t)
	query(t, url, "CREATE ROLE admin LOGIN CREATEDB CREATEROLE PASSWORD 'admin'")
	given := "postgres://admin:admin@" + url[strings.LastIndex(url, "@")+1:]
	dir := filepath.Join(tmp, "stack")
	up := launch(t, tmp, []string{"DATABASE_URL=" + given}, "up", "--dir", dir, "--bin", bin(t))
	eventually(t, "the stack", func() bool { return strings.Contains(up.printed(t), "The stack is ready") })
	env := readEnv(t, filepath.Join(dir, "devstack.env"))
	if got := query(t, env["STORAGE_DATABASE_URL"], "SELECT current_user::text"); got != "storage_app" {
		t.Errorf("the storage service is %s", got)
	}
	if out, err := devstackCmd(t, "kill", "postgres", "--dir", dir); err == nil ||
		!strings.Contains(out, "DATABASE_URL named a server") {
		t.Errorf("error %v, printed %s", err, out)
	}
}

func livePIDs(t *testing.T, dir string) []int {
	t.Helper()
	var pids []int
	for _, c := range status(t, dir) {
		pids = append(pids, c.PID)
	}
	if len(pids) != 5 || slices.Contains(pids, 0) {
		t.Fatalf("processes %v", pids)
	}
	return pids
}

// gone waits until processes have ended. A zombie counts as ended.
func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d to end", pid), func() bool {
			out, err := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output()
			return err != nil || strings.HasPrefix(string(out), "Z")
		})
	}
}

func TestPortsAndSecretsAreKept(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	// The usual port is taken at the first start, and free at the second.
	usual, err := net.Listen("tcp4", "127.0.0.1:4222")
	first, before := upStack(t, tmp, dir)
	if err == nil {
		_ = usual.Close()
	}
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	first.ended(t, 40*time.Second)
	if _, err := os.Stat(filepath.Join(dir, "devstack.env")); !os.IsNotExist(err) {
		t.Errorf("devstack.env outlives the stack: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log", "postgres.log"))
	if err != nil || !strings.Contains(string(log), "received fast shutdown request") {
		t.Errorf("PostgreSQL was not stopped in order: %v\n%s", err, log)
	}
	taken, err := net.Listen("tcp4", strings.TrimPrefix(before["STORAGE_URL"], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, after := upStack(t, tmp, dir)
	for name, value := range before {
		if name == "STORAGE_URL" {
			if after[name] == value {
				t.Errorf("%s took a port that was not free", name)
			}
			continue
		}
		if after[name] != value {
			t.Errorf("%s was %s and is %s", name, value, after[name])
		}
	}
}

func TestMailsAreShownUnderMailURL(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	_, env := upStack(t, tmp, dir)
	var kept struct{ Ports map[string]int }
	content, err := os.ReadFile(filepath.Join(dir, "devstack.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &kept); err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", kept.Ports["smtp"])
	if err := smtp.SendMail(addr, nil, "a@localhost", []string{"b@localhost"},
		[]byte("Subject: hello\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(env["MAIL_URL"] + "/api/messages")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var got struct{ Count int }
	if err := json.NewDecoder(answer.Body).Decode(&got); err != nil || got.Count != 1 {
		t.Errorf("%d mails, error %v", got.Count, err)
	}
}
