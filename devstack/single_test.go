package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var urlPattern = regexp.MustCompile(`(?m)^DATABASE_URL=(.+)$`)

func TestPostgresEndsOnSIGTERMLeavingNothing(t *testing.T) {
	tmp := tempDir(t)
	server := launch(t, tmp, nil, "postgres")
	url := server.url(t)
	if got := query(t, url, "SHOW fsync"); got != "on" {
		t.Errorf("fsync is %s", got)
	}
	if got := query(t, url, "SELECT datcollate FROM pg_database WHERE datname = 'template1'"); got != "C" {
		t.Errorf("collation is %s", got)
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	server.ended(t, 30*time.Second)
	if server.err != nil {
		t.Errorf("ended with %v", server.err)
	}
	nothingLeft(t, tmp)
}

func TestPostgresEndsWithStandardInput(t *testing.T) {
	tmp := tempDir(t)
	cmd := exec.Command(program(t), "postgres")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "DATABASE_URL=")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "DATABASE_URL=") {
		t.Errorf("printed %q, error %v", line, err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	nothingLeft(t, tmp)
}

// The server ends when devstack is killed, and the next devstack removes its directory.
func TestKilledPostgresIsClearedAway(t *testing.T) {
	tmp := tempDir(t)
	first := launch(t, tmp, nil, "postgres")
	url := first.url(t)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.ended(t, 10*time.Second)
	eventually(t, "the server to end with devstack", func() bool {
		_, err := pgx.Connect(t.Context(), url)
		return err != nil
	})
	left := entries(t, tmp)
	if len(left) != 1 {
		t.Fatalf("%d directories after a kill, want the one that could not be removed", len(left))
	}
	// A process that has ended may still be listed until its new parent has reaped it.
	eventually(t, "the next start to clear it away", func() bool {
		second := launch(t, tmp, nil, "postgres")
		second.url(t)
		if err := second.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		second.ended(t, 30*time.Second)
		return len(entries(t, tmp)) == 0
	})
}

func TestPostgresKeepsItsDataInADirectory(t *testing.T) {
	for name, sub := range map[string]string{"short": "data", "too long for a socket": strings.Repeat("long", 30)} {
		t.Run(name, func(t *testing.T) {
			tmp := tempDir(t)
			dir := filepath.Join(tmp, sub)
			for i, sql := range []string{"CREATE TABLE kept AS SELECT 'kept' AS word", "SELECT word FROM kept"} {
				server := launch(t, tmp, nil, "postgres", "--dir", dir)
				if got := query(t, server.url(t), sql); i == 1 && got != "kept" {
					t.Errorf("read %q", got)
				}
				if err := server.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				server.ended(t, 30*time.Second)
			}
			if left := entries(t, tmp); len(left) != 1 {
				t.Errorf("left %v, want only the given directory", left)
			}
		})
	}
}

func TestOnlyOneDevstackPerDirectory(t *testing.T) {
	tmp := tempDir(t)
	server := launch(t, tmp, nil, "postgres", "--dir", filepath.Join(tmp, "d"))
	server.url(t)
	out, err := devstackCmd(t, "postgres", "--dir", filepath.Join(tmp, "d"))
	if err == nil || !strings.Contains(out, "another devstack works in") {
		t.Errorf("error %v, printed %s", err, out)
	}
}

func TestGivenDatabaseIsUsedAsItIs(t *testing.T) {
	tmp := tempDir(t)
	server := launch(t, tmp, []string{"DATABASE_URL=postgres://somewhere/else"}, "postgres")
	if got := server.url(t); got != "postgres://somewhere/else" {
		t.Errorf("printed %s", got)
	}
	if left := entries(t, tmp); len(left) != 0 {
		t.Errorf("made %v", left)
	}
}

// url waits for the line that devstack postgres prints, and returns the URL in it.
func (r *running) url(t *testing.T) string {
	t.Helper()
	var found []string
	eventually(t, "the server's URL", func() bool {
		select {
		case <-r.done:
			t.Fatalf("devstack ended: %v\n%s", r.err, r.printed(t))
		default:
		}
		found = urlPattern.FindStringSubmatch(r.printed(t))
		return found != nil
	})
	return found[1]
}

// query runs a statement and returns the first value of its last row.
func query(t *testing.T, url string, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var value string
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		if err := rows.Scan(&value); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return value
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	if left := entries(t, tmp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
