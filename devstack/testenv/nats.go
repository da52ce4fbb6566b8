package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
	"github.com/signup-saga/signup-saga/devstack/testenv/scratch"
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
	home  *scratch.Dir   // holds Dir. Not t.TempDir, which fails the test if the server still writes
	child *child.Process // nil while the server is down
}

// NATS starts a NATS server that ends with the test.
func NATS(t testing.TB) *NATSServer {
	t.Helper()
	home, err := scratch.New("")
	if err != nil {
		t.Fatalf("make a folder for NATS: %v", err)
	}
	s := &NATSServer{Dir: filepath.Join(home.Path, "nats"), t: t, addr: "127.0.0.1:0", home: home}
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
	started, url, err := launch("NATS_URL", "nats", "--dir", s.Dir, "--addr", s.addr)
	if err != nil {
		s.t.Fatalf("start NATS: %v", err)
	}
	s.child, s.URL, s.addr = started, url, strings.TrimPrefix(url, "nats://")
}

// Stop shuts the server down cleanly, if it runs.
func (s *NATSServer) Stop() {
	s.t.Helper()
	if s.child == nil {
		return
	}
	if err := s.child.Close(); err != nil {
		s.t.Errorf("stop NATS: %v", err)
	}
	s.child = nil
}

// Kill kills the server with SIGKILL, if it runs.
func (s *NATSServer) Kill() {
	if s.child != nil {
		s.child.Kill()
		s.child = nil
	}
}

// Wipe kills the server, deletes everything that it stored, and starts it again.
func (s *NATSServer) Wipe() {
	s.t.Helper()
	s.Kill()
	if err := os.RemoveAll(s.Dir); err != nil {
		s.t.Fatalf("wipe NATS: %v", err)
	}
	s.Start()
}

// Pause freezes the server; its connections stay open and silent.
func (s *NATSServer) Pause() {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	// The signal takes a moment to stop all threads. Without /proc, nothing shows when they have stopped.
	stat := fmt.Sprintf("/proc/%d/stat", s.child.PID())
	Eventually(s.t, 5*time.Second, "NATS to be paused", func() bool {
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
	if err := s.child.Signal(sig); err != nil {
		s.t.Fatalf("signal NATS: %v", err)
	}
}

func (s *NATSServer) close() {
	s.Kill()
	if err := s.home.Remove(); err != nil {
		s.t.Errorf("remove the folder of NATS: %v", err)
	}
}
