package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv/port"
)

const (
	// startLimit is long because a first start may have to download PostgreSQL.
	startLimit = 5 * time.Minute
	// healLimit is how long the system may take to catch up after an outage.
	healLimit = 90 * time.Second
)

// noTimers disables the timers that repeat unanswered commands, so that a test sees only the work of the outboxes.
var noTimers = []string{"PROVISION_PROMISE=1h"}

// stack is a system of real processes, run by devstack.
type stack struct {
	t   testing.TB
	dir string
	env map[string]string // the file devstack.env
	// ports holds the ports by their names in devstack.json.
	ports map[string]int
	// within is a command that runs the command after it in an environment of its own, for example with small disks.
	within []string
	up     *child
}

// startStack runs devstack up with faults on and cheap password hashes. variables are NAME=value, for the services.
func startStack(t testing.TB, variables []string, flags ...string) *stack {
	t.Helper()
	s := &stack{t: t, dir: stackDir(t), env: map[string]string{}}
	s.choosePorts()
	s.start(variables, flags...)
	return s
}

// start runs the stack in its folder, on the chosen ports.
func (s *stack) start(variables []string, flags ...string) {
	s.t.Helper()
	t := s.t
	command := slices.Concat(s.within,
		[]string{devstack, "up", "--dir", s.dir, "--bin", binaries, "--faults", "--hash-cost", "test"}, flags)
	s.up = start(t, "devstack up", append(os.Environ(), variables...), command[0], command[1:]...)
	t.Cleanup(func() {
		if t.Failed() {
			s.showLogs()
		}
	})
	file := filepath.Join(s.dir, "devstack.env")
	eventually(t, startLimit, "the stack", func() bool {
		select {
		case <-s.up.done:
			t.Fatalf("devstack up ended: %v", s.up.err)
		default:
		}
		_, err := os.Stat(file)
		return err == nil
	})
	for line := range strings.Lines(mustRead(t, file)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		s.env[name] = strings.Trim(value, "'")
	}
}

// stackDir makes a folder that is deleted after the test. Unlike t.TempDir, an unprivileged database server may
// enter it.
func stackDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-stack-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// choosePorts writes free ports into the settings file, as if an earlier run had used them. Another stack on
// this machine could take the usual ports while a component of this one is down.
func (s *stack) choosePorts() {
	s.t.Helper()
	s.ports = map[string]int{}
	for _, name := range []string{
		"postgres", "nats", "smtp", "mail", "member", "member admin", "member-2", "member-2 admin", "storage",
		"storage-2",
	} {
		s.ports[name] = freePort(s.t)
	}
	settings, err := json.Marshal(map[string]any{"ports": s.ports, "secrets": map[string]string{}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "devstack.json"), settings, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// freePort picks a free port below the system's ephemeral range.
func freePort(t testing.TB) int {
	t.Helper()
	free, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	return free
}

// showLogs prints the end of every component's log.
func (s *stack) showLogs() {
	files, err := filepath.Glob(filepath.Join(s.dir, "log", "*"))
	if err != nil {
		return
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			s.t.Logf("%s ends with:\n%s", filepath.Base(file), tail(string(text)))
		}
	}
}

// do asks devstack to carry out a verb (kill, stop, start …) on a component, over devstack's control socket. A
// service that is started with a fault (point[:nth]) ends itself at that point.
func (s *stack) do(verb, component, fault string) error {
	_, err := s.control(http.MethodPost, "/do/"+verb+"/"+component+"?"+url.Values{"fault": {fault}}.Encode())
	return err
}

func (s *stack) control(method, path string) (string, error) {
	socket, err := os.ReadFile(filepath.Join(s.dir, "control"))
	if err != nil {
		return "", err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimSpace(string(socket)))
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequest(method, "http://devstack"+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("devstack %s: %s", path, text)
	}
	return string(text), err
}

// operate carries out a verb on a component and fails the test if that fails.
func (s *stack) operate(verb, component string) {
	s.t.Helper()
	if err := s.do(verb, component, ""); err != nil {
		s.t.Fatal(err)
	}
}

// look returns the state of a component according to devstack: running, stopped, killed, died …
func (s *stack) look(component string) (string, error) {
	out, err := s.control(http.MethodGet, "/status")
	if err != nil {
		return "", err
	}
	var status struct {
		Components []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return "", err
	}
	for _, one := range status.Components {
		if one.Name == component {
			return one.State, nil
		}
	}
	return "", fmt.Errorf("devstack status does not list %s:\n%s", component, out)
}

func (s *stack) state(component string) string {
	s.t.Helper()
	state, err := s.look(component)
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

// goneAway fails the test if the address still accepts connections. This proves that a fault has happened.
func (s *stack) goneAway(component, address string) {
	s.t.Helper()
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	}
	if err := dial(address); err == nil {
		s.t.Fatalf("%s (%s) still answers at %s", component, s.state(component), address)
	}
}

// provider sets how the storage provider misbehaves, for all replicas.
func (s *stack) provider(mode string) {
	s.t.Helper()
	body := fmt.Sprintf(`{"mode":%q,"probability":1,"latency_ms":0}`, mode)
	answer := s.call(http.MethodPut, s.env["STORAGE_URL"]+"/v1/faults", s.env["STORAGE_TOKEN"], body)
	if answer.Status != http.StatusOK || answer.Body["mode"] != mode {
		s.t.Fatalf("PUT /v1/faults: %+v", answer)
	}
}

// answer is an HTTP response with a JSON body.
type answer struct {
	Status int
	Header http.Header
	Body   map[string]any
}

// call makes a request and fails the test if there is no response. Any status is accepted.
func (s *stack) call(method, address, token, body string) answer {
	s.t.Helper()
	a, err := request(http.DefaultClient, method, address, body, map[string]string{"Authorization": "Bearer " + token})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func request(client *http.Client, method, address, body string, headers map[string]string) (answer, error) {
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range headers {
		if value != "" && value != "Bearer " {
			req.Header.Set(name, value)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	if err := json.NewDecoder(resp.Body).Decode(&a.Body); err != nil {
		return a, fmt.Errorf("%s %s: %s: %w", method, address, resp.Status, err)
	}
	return a, nil
}
