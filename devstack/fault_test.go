package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A test may put a proxy between a service and what it uses, and tell one start of the service where to end itself.
func TestServicesLearnOfProxiesAndFaults(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	_, env := upStack(t, tmp, dir, "--faults", "--via", "storage:postgres=127.0.0.1:1", "--via",
		"storage:nats=127.0.0.1:2")
	log := func() string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, "log", "storage.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, want := range []string{"NATS_URL=nats://127.0.0.1:2\n", "@127.0.0.1:1/storage", "FAULTS=on\n"} {
		if !strings.Contains(log(), want) {
			t.Errorf("storage did not get %s:\n%s", want, log())
		}
	}
	if strings.Contains(env["STORAGE_DATABASE_URL"], "127.0.0.1:1/") {
		t.Error("the other services got the proxy as well")
	}
	if strings.Contains(log(), "FAULT=") {
		t.Error("a fault that nobody asked for")
	}
	do(t, dir, "kill", "storage", "killed")
	if out, err := devstackCmd(t, "start", "storage", "--fault", "after.claimDue:3", "--dir", dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	do(t, dir, "kill", "storage", "killed")
	do(t, dir, "start", "storage", "running")
	if n := strings.Count(log(), "FAULT=after.claimDue:3\n"); n != 1 {
		t.Errorf("%d of 3 processes were stopped, want 1", n)
	}
	if out, err := devstackCmd(t, "up", "--via", "storage:smtp=127.0.0.1:1"); err == nil ||
		!strings.Contains(out, "nats or postgres") {
		t.Errorf("a link that does not exist: %v\n%s", err, out)
	}
}
