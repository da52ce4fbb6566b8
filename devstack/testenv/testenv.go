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
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// startLimit is long because a first start may have to download PostgreSQL.
	startLimit = 5 * time.Minute
	stopLimit  = 30 * time.Second
)

// Main runs the tests of a package, stops everything that they started, and exits the process.
func Main(m *testing.M) {
	code := m.Run()
	if err := shutdown(); err != nil {
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

// child is a running devstack command. It ends when its standard input is closed, so at the latest when this
// process ends.
type child struct {
	cmd  *exec.Cmd
	life *os.File // our end of its standard input
	done chan struct{}
	err  error // valid once done is closed
}

// launch starts a devstack command and returns the value that it prints as "NAME=value" once it is ready.
func launch(name string, args ...string) (*child, string, error) {
	program, err := binary()
	if err != nil {
		return nil, "", err
	}
	stdin, life, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer stdin.Close()
	stdout, output, err := os.Pipe()
	if err != nil {
		return nil, "", errors.Join(err, life.Close())
	}
	defer output.Close()
	messages := &tailBuffer{}
	c := &child{cmd: exec.Command(program, args...), life: life, done: make(chan struct{})}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, output, messages
	// A terminal's interrupt reaches only the test's process group; the child ends cleanly when its standard
	// input closes.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// DATABASE_URL is meant for the services; a test must never write to the database that it names.
	c.cmd.Env = append(os.Environ(), "DATABASE_URL=")
	if err := c.cmd.Start(); err != nil {
		return nil, "", errors.Join(err, life.Close(), stdout.Close())
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	value, err := readLine(stdout, name)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("devstack %s: %w\n%s", args[0], err, messages), c.close())
	}
	return c, value, nil
}

func readLine(stdout *os.File, name string) (string, error) {
	defer stdout.Close()
	if err := stdout.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+"="); ok {
			return value, nil
		}
	}
	return "", errors.Join(errors.New("it ended, or did not say in time that it is ready"), lines.Err())
}

// close stops the child cleanly, or kills it after stopLimit.
func (c *child) close() error {
	_ = c.life.Close() // a second close is harmless
	_ = c.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-c.done:
		return nil
	case <-time.After(stopLimit):
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not end and was killed", c.cmd)
	}
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
	_ = c.life.Close()
}

// tailBuffer keeps the last part of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	kept []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	const size = 8 << 10
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = append(b.kept, p...)
	b.kept = b.kept[max(0, len(b.kept)-size):]
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.kept)
}

// shutdown stops what the tests shared.
func shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	return shared.close(ctx)
}
