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

// NATSServer is a NATS server with JetStream in a process of its own, which a test may treat as badly as it likes. It
// keeps its port and, but for Wipe, its messages. Its methods fail the test on trouble and must be called by the test's
// goroutine.
type NATSServer struct {
	// URL is the client URL; it stays the same over restarts.
	URL string
	// Dir holds the messages.
	Dir string

	t     testing.TB
	addr  string
	home  string   // holds Dir
	lock  *os.File // says that home is in use
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

// Start starts the server again and waits until JetStream takes messages.
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

// Stop ends the server in order.
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

// Kill ends the server at once, as kill -9 does.
func (s *NATSServer) Kill() {
	if s.child != nil {
		s.child.kill()
		s.child = nil
	}
}

// Wipe kills the server, deletes all that it stored, and starts it again.
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
	// The signal takes a moment to stop all threads. Where there is no /proc, nothing tells when.
	stat := fmt.Sprintf("/proc/%d/stat", s.child.cmd.Process.Pid)
	Eventually(s.t, 5*time.Second, "NATS to stand still", func() bool {
		state, err := os.ReadFile(stat)
		return err != nil || strings.Contains(string(state), ") T ")
	})
}

// Resume lets a paused server go on.
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

// throwAway makes a folder that the next devstack removes if this process is killed: it holds a lock while it is in
// use. The test's own folder will not do, because it is checked for leftovers while the server may still write.
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

// freeAddress picks a port below those that the system gives to outgoing connections: one of these could otherwise take
// the port while the server is down.
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
