package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// NATSServer is a NATS server with JetStream in its own process, which a test may kill, pause or wipe. It keeps
// its URL and, except over Wipe, its messages. Its methods fail the test on error; call them from the test's
// goroutine.
type NATSServer struct {
	URL string
	Dir string // holds the messages

	t      testing.TB
	server *server // nil while it is down
}

// NATS starts a NATS server that ends with the test.
func NATS(t testing.TB) *NATSServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "outbox-nats-")
	if err != nil {
		t.Fatalf("make a folder for NATS: %v", err)
	}
	s := &NATSServer{URL: "nats://127.0.0.1:0", Dir: filepath.Join(dir, "store"), t: t}
	t.Cleanup(func() {
		s.Kill()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the folder of NATS: %v", err)
		}
	})
	s.Start()
	return s
}

// Start starts the server if it is down and waits until JetStream accepts messages.
func (s *NATSServer) Start() {
	s.t.Helper()
	if s.server != nil {
		return
	}
	started, url, err := launch("NATS_URL", "nats", "--dir", s.Dir, "--addr", strings.TrimPrefix(s.URL, "nats://"))
	if err != nil {
		s.t.Fatalf("start NATS: %v", err)
	}
	s.server, s.URL = started, url
}

// Stop shuts the server down cleanly.
func (s *NATSServer) Stop() {
	s.t.Helper()
	if err := s.server.close(); err != nil {
		s.t.Errorf("stop NATS: %v", err)
	}
	s.server = nil
}

// Kill kills the server with SIGKILL, if it runs.
func (s *NATSServer) Kill() {
	if s.server != nil {
		s.server.kill()
		s.server = nil
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
	stat := fmt.Sprintf("/proc/%d/stat", s.server.cmd.Process.Pid)
	Eventually(s.t, 5*time.Second, "NATS to be paused", func() bool {
		state, err := os.ReadFile(stat) // without /proc, nothing shows when it has stopped
		return err != nil || strings.Contains(string(state), ") T ")
	})
}

// Resume continues a paused server.
func (s *NATSServer) Resume() { s.signal(syscall.SIGCONT) }

func (s *NATSServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.server.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signal NATS: %v", err)
	}
}
