package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
	"github.com/signup-saga/signup-saga/devstack/testenv/scratch"
)

// Pair is a PostgreSQL server and a synchronous standby of it, each reached through a proxy. Its methods fail
// the test on error; call them from the test's goroutine.
type Pair struct {
	// URL (superuser) names both servers, the first one first.
	URL string
	// Proxies lead to the two servers. Servers[i] is the URL of server i without its proxy.
	Proxies [2]*Proxy
	Servers [2]string

	t        testing.TB
	home     string
	children [2]*child.Process
}

// NewPair starts two servers that end with the test. It starts them on this machine even if TEST_DATABASE_URL is set.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	home, err := scratch.New("")
	if err != nil {
		t.Fatalf("make a folder for PostgreSQL: %v", err)
	}
	p := &Pair{t: t, home: home.Path}
	t.Cleanup(func() {
		for _, c := range p.children {
			if c != nil {
				err = errors.Join(err, c.Close())
			}
		}
		if err := errors.Join(err, home.Remove()); err != nil {
			t.Errorf("remove two servers: %v", err)
		}
	})
	p.start(0)
	p.must(p.children[0].Close(), os.Mkdir(p.dir(1), 0o755)) // the server's account has to pass through
	p.run("cp", "-a", filepath.Join(p.dir(0), "postgres"), p.dir(1))
	p.start(0)
	p.follow(1, 0)
	p.start(1)
	Eventually(t, time.Minute, "the standby to follow", func() bool {
		return p.query(0, "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming'")
	})
	p.query(0, "ALTER SYSTEM SET synchronous_standby_names = '*'")
	p.query(0, "SELECT pg_reload_conf()")
	both := p.parse(p.Proxies[0].URL)
	both.Host += "," + p.parse(p.Proxies[1].URL).Host
	p.URL = both.String()
	return p
}

// Kill kills server i with SIGKILL.
func (p *Pair) Kill(i int) {
	p.t.Helper()
	content, err := os.ReadFile(filepath.Join(p.data(i), "postmaster.pid"))
	p.must(err)
	pid, err := strconv.Atoi(strings.SplitN(string(content), "\n", 2)[0])
	p.must(err)
	p.must(syscall.Kill(pid, syscall.SIGKILL))
	<-p.children[i].Done // devstack ends when its server does
	p.children[i].Kill()
	p.children[i] = nil
}

// Promote makes the standby i the primary.
func (p *Pair) Promote(i int) {
	p.t.Helper()
	if !p.query(i, "SELECT pg_promote()") {
		p.t.Fatal("the standby was not promoted")
	}
}

// ReturnAsStandby starts the killed server i as a standby of the other one.
func (p *Pair) ReturnAsStandby(i int) {
	p.t.Helper()
	p.follow(i, 1-i)
	p.start(i)
	p.Proxies[i].Reopen()
}

func (p *Pair) dir(i int) string  { return filepath.Join(p.home, strconv.Itoa(i)) }
func (p *Pair) data(i int) string { return filepath.Join(p.dir(i), "postgres", "data") }

func (p *Pair) start(i int) {
	p.t.Helper()
	started, printed, err := launch("DATABASE_URL", "postgres", "--dir", p.dir(i))
	if err != nil {
		p.t.Fatalf("start PostgreSQL: %v", err)
	}
	p.children[i], p.Servers[i] = started, printed
	if p.Proxies[i] == nil {
		p.Proxies[i] = NewProxy(p.t, printed)
	}
	p.Proxies[i].Point(printed)
}

// follow makes server i, which must be down, a standby of server j. The files keep their owner.
func (p *Pair) follow(i, j int) {
	p.t.Helper()
	u := p.parse(p.Servers[j])
	password, _ := u.User.Password()
	conf, err := os.OpenFile(filepath.Join(p.data(i), "postgresql.auto.conf"), os.O_WRONLY|os.O_APPEND, 0)
	p.must(err)
	_, err = fmt.Fprintf(conf, `synchronous_standby_names = ''
primary_conninfo = 'host=%s port=%s user=%s password=%s'
`, u.Hostname(), u.Port(), u.User.Username(), password)
	p.must(err, conf.Close())
	p.run("cp", "-a", filepath.Join(p.data(i), "PG_VERSION"), filepath.Join(p.data(i), "standby.signal"))
}

// query runs a statement on server i and returns its first value, or false if that is not a boolean.
func (p *Pair) query(i int, sql string) bool {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), databaseLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.Servers[i])
	p.must(err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql)
	p.must(err)
	values, err := pgx.CollectRows(rows, pgx.RowToMap)
	p.must(err)
	for _, row := range values {
		for _, value := range row {
			yes, _ := value.(bool)
			return yes
		}
	}
	return false
}

func (p *Pair) parse(raw string) *url.URL {
	p.t.Helper()
	u, err := url.Parse(raw)
	p.must(err)
	return u
}

func (p *Pair) run(name string, args ...string) {
	p.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (p *Pair) must(errs ...error) {
	p.t.Helper()
	if err := errors.Join(errs...); err != nil {
		p.t.Fatal(err)
	}
}
