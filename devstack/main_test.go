package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test program act as devstack and, under their names, as the services, so that a test can run
// a whole stack as processes and kill any of them.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == "member-svc":
		playService(os.Getenv("MEMBER_ADMIN_ADDR"))
	case name == "storage-svc":
		playService(os.Getenv("STORAGE_HTTP_ADDR"))
	case len(os.Args) > 1 && commands()[os.Args[1]] != nil:
		main()
	default:
		// The race detector delays the end of each process by a second, and the tests run many processes.
		if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
}

// playService is ready at once and ends on SIGTERM.
func playService(addr string) {
	if os.Args[1] == "migrate" {
		return
	}
	for _, name := range []string{"NATS_URL", "STORAGE_DATABASE_URL", "FAULTS", "FAULT", "CONSOLE_DEMO_URL"} {
		if value := os.Getenv(name); value != "" {
			fmt.Printf("%s=%s\n", name, value)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: addr, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Println(server.ListenAndServe())
}

// bin returns a folder in which the test program has the names of the services.
func bin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"member-svc", "storage-svc"} {
		if err := os.Symlink(program(t), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func program(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// devstackCmd runs a short devstack command and returns its standard output and standard error.
func devstackCmd(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program(t), args...).CombinedOutput()
	return string(out), err
}

// running is a devstack process that a test may kill.
type running struct {
	*exec.Cmd
	out  string // file with its standard output and standard error
	done chan struct{}
	err  error // valid once done is closed
}

// launch starts a devstack command. tmp becomes its folder for temporary directories.
func launch(t *testing.T, tmp string, env []string, args ...string) *running {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r := &running{Cmd: exec.Command(program(t), args...), out: out.Name(), done: make(chan struct{})}
	r.Stdout, r.Stderr = out, out
	r.Env = append(append(os.Environ(), "TMPDIR="+tmp, "DATABASE_URL="), env...)
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.err = r.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = r.Process.Signal(syscall.SIGTERM)
		r.ended(t, time.Minute)
		if t.Failed() {
			t.Logf("devstack %s printed:\n%s", strings.Join(args, " "), r.printed(t))
		}
	})
	return r
}

func (r *running) printed(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(r.out)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// ended waits until the process has ended, and fails the test if that takes longer than within.
func (r *running) ended(t *testing.T, within time.Duration) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(within):
		_ = r.Process.Kill()
		t.Errorf("devstack did not end within %s", within)
	}
}

// eventually polls cond until it is true.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for %s", what)
		}
		<-tick.C
	}
}

// tempDir is like t.TempDir, but its path is short enough for sockets, and the user who runs PostgreSQL may enter it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ds")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
