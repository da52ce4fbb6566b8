package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// NATSServer is a NATS server with JetStream in its own process, which a test may kill, pause or wipe. It keeps its
// port and, except over Wipe, its messages. Its methods fail the test on error; call them from the test's goroutine.
type NATSServer struct {
	// URL is the client URL. It stays the same across restarts.
	URL string
	// Dir holds the messages.
	Dir string

	t     testing.TB
	addr  string
	home  string   // holds Dir
	lock  *os.File // marks home as in use
	child *child   // nil while the server is down
}

// NATS starts a NATS server that ends with the test.
func NATS(t testing.TB) *NATSServer {
	t.Helper()
	addr, err := freeAddress()
	if err != nil {
		t.Fatalf("find a port for NATS: %v", err)
	}
	home, lock, err := throwAway()
	if err != nil {
		t.Fatalf("make a folder for NATS: %v", err)
	}
	s := &NATSServer{URL: "nats://" + addr, Dir: filepath.Join(home, "nats"), t: t, addr: addr, home: home, lock: lock}
	t.Cleanup(s.close)
	s.Start()
	return s
}

// Start starts the server if it is down and waits until JetStream accepts messages.
func (s *NATSServer) Start() {
	s.t.Helper()
	if s.child != nil {
		return
	}
	started, _, err := launch("NATS_URL", "nats", "--dir", s.Dir, "--addr", s.addr)
	if err != nil {
		s.t.Fatalf("start NATS: %v", err)
	}
	s.child = started
}

// Stop shuts the server down cleanly, if it runs.
func (s *NATSServer) Stop() {
	s.t.Helper()
	if s.child == nil {
		return
	}
	if err := s.child.close(); err != nil {
		s.t.Errorf("stop NATS: %v", err)
	}
	s.child = nil
}

// Kill kills the server with SIGKILL, if it runs.
func (s *NATSServer) Kill() {
	if s.child != nil {
		s.child.kill()
		s.child = nil
	}
}

// Wipe kills the server, deletes everything that it stored, and starts it again.
func (s *NATSServer) Wipe() {
	s.t.Helper()
	s.Kill()
	if err := empty(s.Dir); err != nil {
		s.t.Fatalf("wipe NATS: %v", err)
	}
	s.Start()
}

// Pause freezes the server; its connections stay open and silent.
func (s *NATSServer) Pause() {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	// The signal takes a moment to stop all threads. Without /proc, nothing shows when they have stopped.
	stat := fmt.Sprintf("/proc/%d/stat", s.child.cmd.Process.Pid)
	Eventually(s.t, 5*time.Second, "NATS to stand still", func() bool {
		state, err := os.ReadFile(stat)
		return err != nil || strings.Contains(string(state), ") T ")
	})
}

// Resume continues a paused server.
func (s *NATSServer) Resume() { s.signal(syscall.SIGCONT) }

func (s *NATSServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if s.child == nil {
		s.t.Fatal("NATS does not run")
	}
	if err := s.child.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signal NATS: %v", err)
	}
}

func (s *NATSServer) close() {
	s.Kill()
	if err := errors.Join(os.RemoveAll(s.home), s.lock.Close()); err != nil {
		s.t.Errorf("remove the folder of NATS: %v", err)
	}
}

// throwAway makes a temporary folder and locks it. If this process is killed, the lock is released and the next
// devstack removes the folder. t.TempDir is unsuitable: the test checks it for leftovers while the server may
// still write.
func throwAway() (dir string, lock *os.File, err error) {
	if dir, err = os.MkdirTemp("", "signup-saga-run-"); err != nil {
		return "", nil, err
	}
	if lock, err = os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return "", nil, err
	}
	if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return "", nil, errors.Join(err, lock.Close())
	}
	return dir, lock, os.Mkdir(filepath.Join(dir, "nats"), 0o700)
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// freeAddress picks a port below the system's ephemeral range: an outgoing connection could take a port of that
// range while the server is down.
func freeAddress() (string, error) {
	const low, high, attempts = 10000, 30000, 100
	var last error
	for range attempts {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(low+rand.IntN(high-low)))
		l, err := net.Listen("tcp4", addr)
		if err == nil {
			return addr, l.Close()
		}
		last = err
	}
	return "", fmt.Errorf("no free port: %w", last)
}
