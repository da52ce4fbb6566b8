package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLedgerAfterDisasters deletes data behind the system's back that no event will ask for again, and has both
// services reconcile.
func TestLedgerAfterDisasters(t *testing.T) {
	s := startStack(t, []string{"RECONCILE_MIN_AGE=0s", "RECONCILE_INTERVAL=1h"})
	people := s.crowd(newBook(t), 12, 4, s.env["MEMBER_URL"])
	s.allReady(people)
	for _, service := range []string{"member-svc", "storage-svc"} {
		if out, code := s.reconcile(service, "--dry-run"); code != 0 {
			t.Fatalf("the books of %s do not balance before anything happened:\n%s", service, out)
		}
	}
	forgotten, removed := people[:3], people[3:6]
	for _, p := range forgotten { // the Storage database was restored
		s.exec("STORAGE_DATABASE_URL", "DELETE FROM storage WHERE member_id = '"+p.MemberID+"'")
	}
	for _, p := range removed { // somebody deleted the folders
		if err := os.RemoveAll(filepath.Dir(s.marker(p.MemberID))); err != nil {
			t.Fatal(err)
		}
	}
	const stranger = "01999e5c-0000-7000-8000-0000000000ff" // the Member database was restored
	s.exec("STORAGE_DATABASE_URL",
		"INSERT INTO storage (member_id, saga_id, generation, desired, status, quota_bytes) VALUES ('"+stranger+"', '"+
			stranger+"', 1, 'present', 'ready', 1)")
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.marker(stranger)), 0o750),
		os.WriteFile(s.marker(stranger), fmt.Appendf(nil, `{"member_id":%q,"generation":1}`, stranger),
			0o600)); err != nil {
		t.Fatal(err)
	}

	s.expectBooks("member-svc", "--dry-run", "accepted                  12", "ready                   12",
		"stranded                   3", "orphans                    1", "repaired                   0")
	s.expectBooks("storage-svc", "--dry-run", "stranded                   3", "orphans                    3",
		"repaired                   0")
	s.expectBooks("storage-svc", "", "stranded                   3", "orphans                    3",
		"repaired                   3")
	s.expectBooks("member-svc", "", "stranded                   3", "orphans                    1",
		"repaired                   3")
	eventually(t, healLimit, "every storage to be there again", func() bool {
		return s.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE status = 'ready'") == 13
	})
	if out, code := s.reconcile("storage-svc", "--dry-run"); code != 0 {
		t.Errorf("the provider's books:\n%s", out)
	}
	out := s.expectBooks("member-svc", "--dry-run", "stranded                   0", "orphans                    1")
	if !strings.Contains(out, "orphan "+stranger) {
		t.Errorf("storages without an owner are not reported:\n%s", out)
	}
	if states := s.states(people); states["ready"] != 12 {
		t.Errorf("states %v: a member has noticed", states)
	}
	ledger := mustRead(t, s.env["PROVIDER_LEDGER"])
	for _, p := range forgotten {
		if n := strings.Count(ledger, `"member_id":"`+p.MemberID); n != 1 {
			t.Errorf("%d effects at the provider for a storage that was there all the time", n)
		}
	}
}

func (s *stack) marker(memberID string) string {
	return filepath.Join(s.env["PROVIDER_DIR"], memberID[34:], memberID, "owner")
}

// reconcile runs the subcommand of a service as an operator would.
func (s *stack) reconcile(service string, flags ...string) (printed string, exitCode int) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(binaries, service), append([]string{"reconcile"}, flags...)...)
	for _, name := range []string{"MEMBER_DATABASE_URL", "STORAGE_DATABASE_URL", "STORAGE_URL", "PROVIDER_DIR"} {
		cmd.Env = append(cmd.Env, name+"="+s.env[name])
	}
	cmd.Env = append(cmd.Env, "STORAGE_CLIENT_TOKEN="+s.env["STORAGE_TOKEN"], "RECONCILE_MIN_AGE=0s")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// expectBooks runs reconcile where something is wrong: exit code 1, and lines in the output.
func (s *stack) expectBooks(service, flag string, lines ...string) string {
	s.t.Helper()
	var flags []string
	if flag != "" {
		flags = append(flags, flag)
	}
	out, code := s.reconcile(service, flags...)
	if code != 1 {
		s.t.Errorf("%s reconcile %s: exit code %d", service, flag, code)
	}
	for _, line := range lines {
		if !strings.Contains(out, line+"\n") {
			s.t.Errorf("%s reconcile %s: no %q in\n%s", service, flag, line, out)
		}
	}
	return out
}
