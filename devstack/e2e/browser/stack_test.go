package browser

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
)

const (
	// startLimit is long because a first start may have to download PostgreSQL.
	startLimit = 5 * time.Minute
	stopLimit  = 40 * time.Second
)

// variables shorten the promise to seconds, remove the rate limit of signups, and offer two plans.
var variables = []string{
	"PROVISION_PROMISE=2s", "STUCK_AFTER=2s", "OUTAGE_BACKOFF_CAP=1s",
	"SIGNUP_RATE_PER_MINUTE=1000000", "PLANS_ALLOWED=free,plus",
}

// system is a stack of real processes, run by devstack.
type system struct {
	dir    string
	env    map[string]string // the file devstack.env
	up     *exec.Cmd
	output bytes.Buffer // devstack's output; read after done
	done   chan struct{}
}

// running is the system that all tests share; each test uses its own members.
var running = sync.OnceValues(func() (*system, error) {
	s := &system{env: map[string]string{}, done: make(chan struct{})}
	var err error
	if s.dir, err = os.MkdirTemp("", "browser-stack-"); err != nil {
		return nil, err
	}
	atExit = append(atExit, func() error { return os.RemoveAll(s.dir) })
	devstack := os.Getenv("DEVSTACK_BIN")
	if devstack == "" {
		devstack = filepath.Join("..", "..", "..", "bin", "devstack")
		build := exec.Command("make", "--no-print-directory", "-C", "../../..", "devstack")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build devstack: %w\n%s", err, out)
		}
	}
	s.up = exec.Command(devstack, "up", "--dir", s.dir, "--faults", "--hash-cost", "test")
	s.up.Env = append(os.Environ(), variables...)
	s.up.Stdout, s.up.Stderr = &s.output, &s.output
	if err := child.StartBound(s.up, syscall.SIGTERM); err != nil {
		return nil, err
	}
	atExit = append(atExit, s.stop)
	go func() {
		defer close(s.done)
		_ = s.up.Wait() // stop checks how it ended
	}()
	return s, s.ready()
})

// ready waits until the system has written its addresses.
func (s *system) ready() error {
	deadline := time.After(startLimit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(s.dir, "devstack.env"))
		if err == nil {
			for line := range strings.Lines(string(text)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				s.env[name] = strings.Trim(value, "'")
			}
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("devstack up: %s\n%s", s.up.ProcessState, s.output.String())
		case <-deadline:
			return errors.New("the system did not start within " + startLimit.String())
		case <-tick.C:
		}
	}
}

func (s *system) stop() error {
	if err := s.up.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.done:
	case <-time.After(stopLimit):
		return errors.Join(errors.New("devstack up did not end within "+stopLimit.String()), s.up.Process.Kill())
	}
	if !s.up.ProcessState.Success() {
		return fmt.Errorf("devstack up: %s\n%s", s.up.ProcessState, s.output.String())
	}
	return nil
}

// needSystem returns the system. Its provider works: every test restores it.
func needSystem(t testing.TB) *system {
	t.Helper()
	needChromium(t) // without it, starting the system would be useless
	s, err := running()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// provider sets how the storage provider misbehaves until the test ends.
func (s *system) provider(t testing.TB, mode string) {
	t.Helper()
	s.setProvider(t, mode)
	t.Cleanup(func() { s.setProvider(t, "none") })
}

func (s *system) setProvider(t testing.TB, mode string) {
	t.Helper()
	body := fmt.Sprintf(`{"mode":%q,"probability":1,"latency_ms":1000}`, mode)
	s.call(t, http.MethodPut, s.env["STORAGE_URL"]+"/v1/faults", s.env["STORAGE_TOKEN"], body)
}

// signUp makes a signup through the API and returns the path of the signup.
func (s *system) signUp(t testing.TB, username string) string {
	t.Helper()
	answer := s.call(t, http.MethodPost, s.env["MEMBER_URL"]+"/v1/members", "",
		fmt.Sprintf(`{"username":%q,"password":%q}`, username, password))
	id, _ := answer["signup_id"].(string)
	return "/v1/signups/" + id
}

// awaitState waits until a signup is in a state.
func (s *system) awaitState(t testing.TB, signup, state string) {
	t.Helper()
	eventually(t, signup+" to be "+state, func() bool {
		return s.call(t, http.MethodGet, s.env["MEMBER_URL"]+signup, "", "")["state"] == state
	})
}

// call calls an API, fails the test unless the call succeeds, and returns the decoded answer.
func (s *system) call(t testing.TB, method, address, token, body string) map[string]any {
	t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode > 299 {
		t.Fatalf("%s %s: %s %s %v", method, address, resp.Status, text, err)
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}
