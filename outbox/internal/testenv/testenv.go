// Package testenv gives the tests of the outbox and of its adapters a real PostgreSQL and real NATS servers:
// processes of the repository's devstack. It runs that program instead of importing devstack/testenv, because
// every module that requires the outbox would otherwise have to resolve the imports of these tests.
//
// DEVSTACK_BIN names a devstack program to use instead of building one. TEST_DATABASE_URL names a running
// PostgreSQL to use instead, as a role that may create databases.
package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stopLimit is how long a server may take to stop before it is killed.
const stopLimit = 30 * time.Second

// Main runs the tests of a package, stops what they share, and exits the process.
func Main(m *testing.M) {
	code := m.Run()
	if err := errors.Join(shared.close(), os.RemoveAll(built)); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Eventually polls cond every 10 ms until it is true, and fails the test if that takes longer than within. what
// completes the message "gave up waiting for …".
func Eventually(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for %s after %s", what, within)
		}
	}
}

// built is the folder of the devstack program that this process built.
var built string

var devstack = sync.OnceValues(func() (string, error) {
	if given := os.Getenv("DEVSTACK_BIN"); given != "" {
		return given, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "devstack", "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no folder above the test holds devstack: set DEVSTACK_BIN")
		}
	}
	if built, err = os.MkdirTemp("", "devstack-"); err != nil {
		return "", err
	}
	program := filepath.Join(built, "devstack")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
	build.Dir = filepath.Join(dir, "devstack")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build devstack: %w\n%s", err, out)
	}
	return program, nil
})

// server is a running devstack command. It stops when its standard input is closed, so at the latest when this
// process ends.
type server struct {
	cmd  *exec.Cmd
	life io.Closer // its standard input
}

// launch starts a devstack command and returns the value that it prints as "NAME=value" once it is ready.
func launch(name string, args ...string) (*server, string, error) {
	program, err := devstack()
	if err != nil {
		return nil, "", err
	}
	messages, err := os.CreateTemp("", "devstack-log-")
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = errors.Join(messages.Close(), os.Remove(messages.Name())) }()
	cmd := exec.Command(program, args...)
	cmd.Stderr = messages
	cmd.Env = append(os.Environ(), "DATABASE_URL=") // tests never write to the database that the variable names
	// A terminal's interrupt reaches only the test's process group; the server stops cleanly when its standard
	// input closes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+"="); ok {
			return &server{cmd, life}, value, stdout.Close()
		}
	}
	_, said := cmd.Wait(), errors.New("it said nothing")
	if text, err := os.ReadFile(messages.Name()); err == nil && len(text) > 0 {
		said = errors.New(string(text))
	}
	return nil, "", fmt.Errorf("devstack %s ended before it was ready: %w", args[0], said)
}

// close stops the server cleanly, or kills it after stopLimit.
func (s *server) close() error {
	_ = s.life.Close()
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	late := time.AfterFunc(stopLimit, func() { _ = s.cmd.Process.Kill() })
	_ = s.cmd.Wait() // whatever its exit status
	if !late.Stop() {
		return fmt.Errorf("%s did not end and was killed", s.cmd)
	}
	return nil
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}
