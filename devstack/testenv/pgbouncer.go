package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer starts a PgBouncer in front of the database with this URL and returns the URL that leads through it.
// It runs in transaction mode, without passwords and with three sessions. It ends with the test.
func PgBouncer(t testing.TB, databaseURL string) string {
	t.Helper()
	server, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	quoted := strings.NewReplacer("'", "''").Replace
	settings := filepath.Join(t.TempDir(), "pgbouncer.ini")
	if err := os.WriteFile(settings, fmt.Appendf(nil, `[databases]
* = host='%s' port=%d user='%s' password='%s'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
`, quoted(server.Host), server.Port, quoted(server.User), quoted(server.Password), port), 0o600); err != nil {
		t.Fatal(err)
	}
	program, libraries := findPgBouncer(t)
	args := []string{"--quiet", settings}
	if os.Getuid() == 0 {
		args = append([]string{"--user", "nobody"}, args...)
	}
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "LD_LIBRARY_PATH="+libraries), t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	Eventually(t, 5*time.Second, "PgBouncer", func() bool {
		conn, err := net.DialTimeout("tcp4", address, time.Second)
		return err == nil && conn.Close() == nil
	})
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(server.User, server.Password), Host: address,
		Path: server.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// findPgBouncer returns the installed program. If there is none, it returns one from Debian's or Ubuntu's
// archive, which is deleted after the test, and the folder of its libraries.
func findPgBouncer(t testing.TB) (program, libraries string) {
	t.Helper()
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, ""
		} else if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	fetch := exec.CommandContext(t.Context(), "sh", "-ec", `
apt-get download pgbouncer $(apt-cache depends pgbouncer | sed -n 's/.*Depends: \(lib.*\)/\1/p' | grep -v '^libc6')
for package in *.deb; do dpkg-deb --extract "$package" .; done`)
	fetch.Dir = t.TempDir()
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Fatalf("PgBouncer is not installed (apt install pgbouncer, brew install pgbouncer), "+
			"and fetching it did not work: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(fetch.Dir, "*", "lib", "*-linux-gnu"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(fetch.Dir, "usr", "sbin", "pgbouncer"), strings.Join(found, ":")
}
