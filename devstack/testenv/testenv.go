// Package testenv gives tests a real PostgreSQL and real NATS servers. They are processes of devstack, which is
// built from the workspace around the test. Nothing but Go has to be installed.
//
// A package uses it from its TestMain:
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
// Each server starts when the first test needs it, and ends with the test process, even if that is killed.
//
// TEST_DATABASE_URL names a running PostgreSQL to use instead, as a role that may create databases. DEVSTACK_BIN
// names a devstack program to use instead of building one.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
)

// Main runs the tests of a package, stops everything that they started, and exits the process.
func Main(m *testing.M) {
	code := m.Run()
	if err := shared.close(); err != nil {
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
	deadline := time.Now().Add(within)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for %s after %s", what, within)
		}
		<-tick.C
	}
}

var binary = sync.OnceValues(devstack)

// devstack returns the path of the devstack program. It builds the program unless DEVSTACK_BIN names one.
// Packages are tested in parallel: one builds, the others wait and then find the program up to date.
func devstack() (string, error) {
	if given := os.Getenv("DEVSTACK_BIN"); given != "" {
		return given, nil
	}
	root, err := workspace()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if out, err := exec.Command("make", "--no-print-directory", "-C", root, "devstack").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build devstack: %w\n%s", err, out)
	}
	return filepath.Join(dir, "devstack"), nil
}

// workspace returns the folder that holds devstack: the folder of the package under test, or one above it.
func workspace() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "devstack", "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no folder above the test holds devstack: set DEVSTACK_BIN")
}

// launch starts a devstack command and returns the value that it prints as "NAME=value" once it is ready.
func launch(name string, args ...string) (*child.Process, string, error) {
	program, err := binary()
	if err != nil {
		return nil, "", err
	}
	return child.Start(context.Background(), exec.Command(program, args...), name+"=")
}
