package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	processes "github.com/signup-saga/signup-saga/devstack/testenv/child"
)

// stopLimit is longer than the services take to drain.
const stopLimit = 40 * time.Second

// child is a process that ends with the test that started it.
type child struct {
	t       testing.TB
	name    string
	cmd     *exec.Cmd
	printed *transcript
	done    chan struct{} // closed when it has ended
	err     error         // how it ended; read after done
}

// transcript collects the output of a process.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // receives when there is more to read
}

func (p *transcript) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
	return p.text.Write(b)
}

func (p *transcript) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// start runs a program with exactly this environment, or with this process's own if env is nil.
func start(t testing.TB, name string, env []string, path string, args ...string) *child {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = env
	c := &child{t: t, name: name, cmd: cmd, printed: &transcript{more: make(chan struct{}, 1)},
		done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = c.printed, c.printed
	// A pipe that is closed when this program dies for any reason.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	if err := processes.StartBound(cmd, syscall.SIGTERM); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		defer close(c.done)
		c.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = c.stop() // a test that checks the exit stops it itself
		_ = stdin.Close()
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, tail(c.printed.String()))
		}
	})
	return c
}

// stop asks the process to end and returns how it ended.
func (c *child) stop() error {
	c.t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.t.Errorf("%s did not end within %s", c.name, stopLimit)
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	return c.err
}

// awaitVariable waits until the process has printed a line NAME=value.
func (c *child) awaitVariable(name string, within time.Duration) string {
	c.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		lines := bufio.NewScanner(strings.NewReader(c.printed.String()))
		for lines.Scan() {
			if value, ok := strings.CutPrefix(lines.Text(), name+"="); ok {
				return value
			}
		}
		select {
		case <-c.printed.more:
		case <-c.done:
			c.t.Fatalf("%s ended before it printed %s: %v\n%s", c.name, name, c.err, tail(c.printed.String()))
		case <-timer.C:
			c.t.Fatalf("%s did not print %s within %s", c.name, name, within)
		}
	}
}

// tail returns the end of a long text.
func tail(text string) string {
	const size = 4000
	return text[max(0, len(text)-size):]
}

// mustRead returns a file's text.
func mustRead(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
