package e2e

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// copyTree copies the repository without the files that git ignores.
func copyTree(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(repository, path)
		switch {
		case entry.IsDir() && (name == ".git" || name == "bin" || name == filepath.Join("docs", "img")):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// follow carries out the code blocks of a guide in order: it runs sh blocks and applies diff blocks.
func follow(t *testing.T, tree, guide string) {
	t.Helper()
	blocks := regexp.MustCompile("(?ms)^```(sh|diff)\n(.*?)^```").FindAllStringSubmatch(guide, -1)
	if len(blocks) < 8 {
		t.Fatalf("the guide has %d blocks", len(blocks))
	}
	for _, b := range blocks {
		if b[1] == "diff" {
			applyDiff(t, tree, b[2])
			continue
		}
		in(t, tree, "bash", "-euc", b[2])
	}
}

// applyDiff changes a file as a person would who reads the diff. Each hunk must occur once in the file. Lines of
// @@ separate the hunks.
func applyDiff(t *testing.T, tree, diff string) {
	t.Helper()
	head, hunks, _ := strings.Cut(diff, "\n@@\n")
	file := filepath.Join(tree, strings.TrimSpace(strings.TrimPrefix(head, "+++ ")))
	text := mustRead(t, file)
	for hunk := range strings.SplitSeq("\n"+hunks, "\n@@\n") {
		var before, after strings.Builder
		for line := range strings.SplitSeq(strings.Trim(hunk, "\n"), "\n") {
			kind, rest := " ", ""
			if line != "" {
				kind, rest = line[:1], line[1:]
			}
			if kind != "+" {
				before.WriteString(rest + "\n")
			}
			if kind != "-" {
				after.WriteString(rest + "\n")
			}
		}
		if n := strings.Count(text, before.String()); n != 1 {
			t.Fatalf("%s has %d times\n%s", file, n, before.String())
		}
		text = strings.Replace(text, before.String(), after.String(), 1)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// in runs a command in a folder of the tree, with the tree's own go.work.
func in(t *testing.T, dir string, command string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", command, args, err, tail(string(out)))
	}
}

// twoSteps is a fortress in which members get a mailbox after their storage.
type twoSteps struct {
	*fortress
	mailbox *child
}

func (s *twoSteps) serveMailbox() {
	s.t.Helper()
	s.mailbox = s.serve("mailbox", s.variables()...)
}

func (s *twoSteps) variables() []string {
	return []string{
		"MAILBOX_TOKEN_FILE=" + s.path("STORAGE_TOKEN"), "MAILBOX_CLIENT_TOKEN_FILE=" + s.path("STORAGE_TOKEN"),
		"MAILBOX_URL=https://" + s.addrs["MAILBOX_HTTP_ADDR"], "RECONCILE_MIN_AGE=0s",
	}
}

// count counts rows as the superuser.
func (s *twoSteps) count(database, from string, args ...any) (n int) {
	s.t.Helper()
	conn, err := s.connect(s.admin.User, database)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.t.Context())
	if err := conn.QueryRow(s.t.Context(), "-- name: count\nSELECT count(*) FROM "+from, args...).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// exec runs a statement as the superuser.
func (s *twoSteps) exec(database, statement string, args ...any) {
	s.t.Helper()
	conn, err := s.connect(s.admin.User, database)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.t.Context())
	if tag, err := conn.Exec(s.t.Context(), statement, args...); err != nil || tag.RowsAffected() == 0 {
		s.t.Fatalf("%s: %v, %s", statement, err, tag)
	}
}

// crowd signs five people up.
func (s *twoSteps) crowd(name string) (locations []string) {
	for n := range 5 {
		locations = append(locations, s.signUp(fmt.Sprintf("%s%d", name, n)))
	}
	return locations
}

func (s *twoSteps) awaitAll(locations []string, state string) {
	s.t.Helper()
	for _, l := range locations {
		s.awaitState(l, state)
	}
}

// wipeNATS replaces the server by an empty one at the same address.
func (s *twoSteps) wipeNATS() {
	s.t.Helper()
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
	options := s.natsOptions.Clone()
	options.StoreDir = s.t.TempDir()
	var err error
	if s.nats, err = server.NewServer(options); err != nil {
		s.t.Fatal(err)
	}
	s.nats.Start()
	s.t.Cleanup(func() { s.nats.Shutdown(); s.nats.WaitForShutdown() })
	if !s.nats.ReadyForConnections(time.Minute) {
		s.t.Fatal("NATS does not start")
	}
}

// leave withdraws a member.
func (s *twoSteps) leave(username string) {
	s.t.Helper()
	password := `"password":"a long enough one"`
	body := `{"username":"` + username + `",` + password + `}`
	session := s.call(http.MethodPost, "MEMBER_HTTP_ADDR", "/v1/sessions", "", body)
	token, _ := session.Body["token"].(string)
	a := s.call(http.MethodDelete, "MEMBER_HTTP_ADDR", "/v1/members/me", token, "{"+password+"}")
	if a.Status != http.StatusAccepted {
		s.t.Fatalf("leave: %+v after %+v", a, session)
	}
}

// docs/adding-a-step.md is followed exactly in a copy of the tree. The result runs with the containers' users
// and roles, in its own processes, and keeps the promises of one step for two.
func TestAddingAStep(t *testing.T) {
	t.Parallel()
	tree := copyTree(t)
	follow(t, tree, mustRead(t, filepath.Join(repository, "docs", "adding-a-step.md")))
	in(t, tree, "make", "--no-print-directory", "services")
	// Use the flags of the services, so that nothing is compiled twice.
	test := []string{"test", "-trimpath", "-vet=off", "-count=1", "-run",
		"^Test(Golden|EverySubject|StepsAreEssential)"}
	in(t, filepath.Join(tree, "contract"), "go", append(test, "./...")...)
	in(t, filepath.Join(tree, "member-svc"), "go", append(test, ".")...)

	s := &twoSteps{fortress: startFortressOf(t, tree, "member", "storage", "mailbox")}
	s.migrate()
	s.serve("member", s.variables()...)
	s.serve("storage", s.variables()...)
	s.serveMailbox()

	first := s.crowd("first")
	s.awaitAll(first, "ready")
	if n := s.count("mailbox", "mailbox WHERE desired = 'present'"); n != 5 {
		t.Errorf("%d mailboxes, want 5", n)
	}

	t.Log("the broker loses everything while people wait for their mailbox")
	if err := s.mailbox.stop(); err != nil {
		t.Errorf("mailbox-svc: %v", err)
	}
	second := s.crowd("second")
	eventually(t, time.Minute, "five sagas at the second step", func() bool {
		return s.count("member", "signup_saga WHERE step = 1 AND state = 'provisioning'") == 5
	})
	s.wipeNATS()
	third := s.crowd("third")
	s.serveMailbox()
	s.awaitAll(append(second, third...), "ready")

	t.Log("people leave while the second participant is away")
	if err := s.mailbox.stop(); err != nil {
		t.Errorf("mailbox-svc: %v", err)
	}
	for n := range 5 {
		s.leave(fmt.Sprintf("second%d", n))
	}
	s.awaitAll(second, "withdrawing")
	s.serveMailbox()
	s.awaitAll(second, "withdrawn")
	for database, from := range map[string]string{"mailbox": "mailbox", "storage": "storage"} {
		if n := s.count(database, from+" WHERE desired = 'present'"); n != 10 {
			t.Errorf("%s: %d are wanted, want 10", database, n)
		}
	}

	t.Log("storages removed by hand are created again")
	for database, table := range map[string]string{"mailbox": "mailbox", "storage": "storage"} {
		s.exec(database, "-- name: remove\nDELETE FROM "+table+" WHERE desired = 'present'")
	}
	eventually(t, time.Minute, "everything to be there again", func() bool {
		run := s.run("member", "app", "reconcile", s.variables()...)
		<-run.done
		return s.count("mailbox", "mailbox WHERE desired = 'present'") == 10 &&
			s.count("storage", "storage WHERE desired = 'present' AND status = 'ready'") == 10
	})

	if n := s.count("storage", "dead_letter"); n != 0 {
		t.Errorf("storage-svc took %d commands that are not its own", n)
	}
	if n := s.count("member", "saga_event WHERE kind IN ('rejected', 'gave_up')"); n != 0 {
		t.Errorf("%d sagas were refused", n)
	}
}
