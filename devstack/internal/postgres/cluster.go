// Package postgres finds a PostgreSQL server and runs a private cluster with it.
package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
	"github.com/signup-saga/signup-saga/devstack/testenv/scratch"
)

const (
	superuser = "postgres"
	// socketPathLimit is the lowest limit of any system for the path of a unix socket, in bytes.
	socketPathLimit = 104
	maxConnections  = 300
)

// Config says where a cluster lives.
type Config struct {
	// Dir holds the cluster's files. It is created if missing; the account must be able to reach it. The account
	// owns only the data folder in it: if it owned more, it could place links that root would follow.
	Dir string
	// Port is the port on 127.0.0.1 that the server listens on.
	Port int
	// Binaries are the programs that run the cluster.
	Binaries Binaries
	// Account is the user that the server runs as.
	Account Account
	// Log opens the file for the server's output, at each start.
	Log func() (*os.File, error)
}

// Cluster is a private PostgreSQL cluster. Start, Stop, Kill, Pause, Resume and Status are those of process.Daemon.
type Cluster struct {
	*process.Daemon
	config   Config
	password string
	sockets  string
	scratch  *scratch.Dir // holds the socket if Dir is too long for one
}

// Open creates the cluster in config.Dir unless it exists. It does not start it.
func Open(ctx context.Context, config Config) (*Cluster, error) {
	c := &Cluster{config: config}
	c.sockets = c.data()
	if err := c.create(ctx); err != nil {
		return nil, fmt.Errorf("create the database cluster: %w", err)
	}
	if len(filepath.Join(c.sockets, c.socketName())) >= socketPathLimit {
		short, err := scratch.New(config.Account.TempDir())
		if err != nil {
			return nil, err
		}
		c.scratch, c.sockets = short, filepath.Join(short.Path, "s")
		if err := c.handOver(c.sockets); err != nil {
			return nil, errors.Join(err, short.Remove())
		}
	}
	c.Daemon = &process.Daemon{
		Name:        "postgres",
		Command:     c.command,
		Log:         config.Log,
		Ready:       c.answers,
		StopSignal:  syscall.SIGINT,  // fast shutdown: sessions are ended, everything is on disk
		DeathSignal: syscall.SIGQUIT, // immediate shutdown: works even when some backends are frozen
		Family:      true,
		AfterKill:   func() { releaseSharedMemory(c.data()) },
	}
	return c, nil
}

// Close stops the cluster and removes what only a running cluster needs.
func (c *Cluster) Close(ctx context.Context) error {
	err := c.Stop(ctx)
	releaseSharedMemory(c.data()) // for a server that another process killed
	if c.scratch != nil {
		err = errors.Join(err, c.scratch.Remove())
	}
	return err
}

// URL returns the superuser's URL of a database. It contains the password.
func (c *Cluster) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, c.password),
		Host:     "127.0.0.1:" + strconv.Itoa(c.config.Port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

func (c *Cluster) data() string         { return filepath.Join(c.config.Dir, "data") }
func (c *Cluster) passwordFile() string { return filepath.Join(c.config.Dir, "password") }
func (c *Cluster) socketName() string   { return ".s.PGSQL." + strconv.Itoa(c.config.Port) + ".lock" }

// create runs initdb, unless the password file shows that an earlier initdb succeeded: the file is renamed into
// place after initdb. The rest of an interrupted initdb is deleted first.
func (c *Cluster) create(ctx context.Context) error {
	if err := os.MkdirAll(c.config.Dir, 0o700); err != nil {
		return err
	}
	if err := c.config.Account.disown(c.config.Dir, 0o711); err != nil { // the account has to pass through
		return err
	}
	kept, err := readPlain(c.passwordFile())
	if err == nil {
		c.password = strings.TrimSpace(string(kept))
		return c.checkVersion()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	draft := c.passwordFile() + ".new"
	if err := errors.Join(os.RemoveAll(c.data()), os.RemoveAll(draft)); err != nil {
		return err
	}
	if err := c.handOver(c.data()); err != nil {
		return err
	}
	c.password = rand.Text()
	if err := writeNew(draft, []byte(c.password+"\n")); err != nil {
		return err
	}
	if err := c.config.Account.own(draft); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(c.config.Binaries.Dir, "initdb"), "--pgdata", c.data(), "--username", superuser,
		"--pwfile", draft, "--auth", "scram-sha-256", "--locale", "C", "--encoding", "UTF8", "--no-instructions")
	c.prepare(cmd)
	if out, err := process.Run(ctx, cmd); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := c.config.Account.disown(draft, 0o600); err != nil {
		return err
	}
	return os.Rename(draft, c.passwordFile())
}

// handOver makes a folder that only the account may use.
func (c *Cluster) handOver(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return c.config.Account.own(dir)
}

// checkVersion returns an error that explains a version mismatch, which the server itself would only log.
func (c *Cluster) checkVersion() error {
	version, err := readPlain(filepath.Join(c.data(), "PG_VERSION"))
	if err != nil {
		return err
	}
	if made := strings.TrimSpace(string(version)); made != strconv.Itoa(c.config.Binaries.Major) {
		return fmt.Errorf(
			"%s was made by PostgreSQL %s, but %s holds PostgreSQL %d: set PG_BIN to the older one, or use "+
				"another --dir",
			c.data(), made, c.config.Binaries.Dir, c.config.Binaries.Major)
	}
	return nil
}

func (c *Cluster) command() (*exec.Cmd, error) {
	settings := []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(c.config.Port),
		"unix_socket_directories=" + c.sockets,
		"max_connections=" + strconv.Itoa(maxConnections),
		// No service prepares transactions, but tests show that the prepared transactions of others do no harm.
		"max_prepared_transactions=8",
		// Shared memory in files in the data directory is deleted with that directory, also after a kill.
		"dynamic_shared_memory_type=mmap",
		// The detail of a constraint violation may contain a person's name.
		"log_error_verbosity=terse",
	}
	args := []string{"-D", c.data()}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	cmd := exec.Command(filepath.Join(c.config.Binaries.Dir, "postgres"), args...)
	c.prepare(cmd)
	return cmd, nil
}

// prepare makes cmd run as the account, in a folder that the account can read, without the user's own PostgreSQL
// settings.
func (c *Cluster) prepare(cmd *exec.Cmd) {
	cmd.Dir = c.config.Dir
	cmd.Env = environment(os.Environ())
	c.config.Account.as(cmd)
}

func (c *Cluster) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
