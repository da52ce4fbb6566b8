// Package pgbouncer runs a PgBouncer in front of a database.
package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
	"github.com/signup-saga/signup-saga/devstack/testenv/port"
)

const startLimit = 10 * time.Second

// Run leads to the database with this URL until ctx is done: in transaction mode, without passwords and with three
// sessions. It calls ready with the URL that leads through it. It writes to the empty folder dir, and its messages
// to log.
func Run(ctx context.Context, databaseURL, dir string, log io.Writer, ready func(url string)) error {
	server, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return err
	}
	free, err := port.Free()
	if err != nil {
		return err
	}
	settings := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(settings, configuration(server, free), 0o600); err != nil {
		return err
	}
	program, libraries, err := find(ctx, dir)
	if err != nil {
		return err
	}
	args := []string{"--quiet", settings}
	if os.Getuid() == 0 {
		args = append([]string{"--user", "nobody"}, args...)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(free))
	died := make(chan string, 1)
	daemon := &process.Daemon{
		Name: "pgbouncer",
		Command: func() (*exec.Cmd, error) {
			cmd := exec.Command(program, args...)
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
			cmd.Stdout, cmd.Stderr = log, log
			return cmd, nil
		},
		Ready: func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
			if err != nil {
				return err
			}
			return conn.Close()
		},
		OnDeath: func(exit string) { died <- exit },
	}
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := daemon.Start(limited); err != nil {
		return errors.Join(err, daemon.Kill())
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(server.User, server.Password), Host: address,
		Path: server.Database, RawQuery: "sslmode=disable",
	}
	ready(u.String())
	select {
	case exit := <-died:
		return fmt.Errorf("pgbouncer ended: %s", exit)
	case <-ctx.Done():
		return daemon.Kill()
	}
}

func configuration(server *pgx.ConnConfig, port int) []byte {
	quoted := strings.NewReplacer("'", "''").Replace
	return fmt.Appendf(nil, `[databases]
* = host='%s' port=%d user='%s' password='%s'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
`, quoted(server.Host), server.Port, quoted(server.User), quoted(server.Password), port)
}

// find returns the installed program. If there is none, it fetches one from Debian's or Ubuntu's archive to dir, and
// also returns the folder of its libraries.
func find(ctx context.Context, dir string) (program, libraries string, err error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, "", nil
		} else if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
	}
	fetch := exec.Command("sh", "-ec", `
apt-get download pgbouncer $(apt-cache depends pgbouncer | sed -n 's/.*Depends: \(lib.*\)/\1/p' | grep -v '^libc6')
for package in *.deb; do dpkg-deb --extract "$package" .; done`)
	fetch.Dir = dir
	if out, err := process.Run(ctx, fetch); err != nil {
		return "", "", fmt.Errorf("PgBouncer is not installed (apt install pgbouncer, brew install pgbouncer), "+
			"and fetching it did not work: %w\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "lib", "*-linux-gnu"))
	return filepath.Join(dir, "usr", "sbin", "pgbouncer"), strings.Join(found, ":"), err
}
