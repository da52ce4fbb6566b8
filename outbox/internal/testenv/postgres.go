package testenv

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// cluster is a PostgreSQL server.
type cluster struct {
	start     func() (url string, err error) // superuser, any database
	server    *server                        // nil if TEST_DATABASE_URL is used
	mu        sync.Mutex
	templates map[string]*template
}

// template is a migrated database that tests copy.
type template struct {
	once     sync.Once
	database string
	err      error
}

// shared is the server that all tests of this process share.
var shared = newCluster()

func newCluster() *cluster {
	c := &cluster{templates: map[string]*template{}}
	c.start = sync.OnceValues(func() (string, error) {
		if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
			return given, nil
		}
		started, url, err := launch("DATABASE_URL", "postgres")
		c.server = started
		return url, err
	})
	return c
}

// Database returns the URL (superuser) of a fresh database, which is dropped when the test ends. The database is
// a copy of a template, which migrate prepared once per test process and name. migrate may be nil.
func Database(t testing.TB, name string, migrate func(ctx context.Context, url string) error) string {
	t.Helper()
	source, err := shared.template(name, migrate)
	if err != nil {
		t.Fatalf("prepare the %s database: %v", name, err)
	}
	database := "test_" + strings.ToLower(rand.Text())
	if err := shared.exec("CREATE DATABASE " + database + " TEMPLATE " + source); err != nil {
		t.Fatalf("create a database: %v", err)
	}
	t.Cleanup(func() {
		if err := shared.exec("DROP DATABASE " + database + " WITH (FORCE)"); err != nil {
			t.Errorf("drop the database: %v", err)
		}
	})
	return shared.in(database)
}

// Cluster returns the URL (superuser) of a database in a cluster of the test's own. The test may crash or damage
// it. It takes a second or two to start.
func Cluster(t testing.TB) string {
	t.Helper()
	return database(t, "postgres")
}

// PgBouncer returns the URL that leads to a database through a PgBouncer, which runs in transaction mode, without
// passwords and with three sessions. It ends with the test.
func PgBouncer(t testing.TB, databaseURL string) string {
	t.Helper()
	return database(t, "pgbouncer", "--to", databaseURL)
}

// database runs a devstack command that gives a database, until the test ends.
func database(t testing.TB, args ...string) (url string) {
	t.Helper()
	started, url, err := launch("DATABASE_URL", args...)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		if err := started.close(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return url
}

func (c *cluster) template(name string, migrate func(context.Context, string) error) (string, error) {
	c.mu.Lock()
	t := c.templates[name]
	if t == nil {
		t = &template{database: "template_" + strings.ToLower(rand.Text())}
		c.templates[name] = t
	}
	c.mu.Unlock()
	t.once.Do(func() {
		if t.err = c.exec("CREATE DATABASE " + t.database + " TEMPLATE template0"); t.err == nil && migrate != nil {
			t.err = migrate(context.Background(), c.in(t.database))
		}
	})
	return t.database, t.err
}

// exec runs one statement. PostgreSQL makes one copy of a template at a time, and waits up to five seconds for
// the sessions in the template to end.
func (c *cluster) exec(sql string) error {
	ctx := context.Background()
	url, err := c.start()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "-- name: testDatabase\n"+sql)
	return cmp.Or(err, conn.Close(ctx))
}

// in returns the URL of another database of the cluster.
func (c *cluster) in(database string) string {
	started, _ := c.start()
	u, err := url.Parse(started)
	if err != nil {
		return started // pgx reports what is wrong with it
	}
	u.Path = "/" + database
	return u.String()
}

// close stops the server, or drops the templates if the server was given and keeps running.
func (c *cluster) close() error {
	if c.server != nil {
		return c.server.close()
	}
	var errs []error
	for _, t := range c.templates {
		errs = append(errs, c.exec("DROP DATABASE IF EXISTS "+t.database+" WITH (FORCE)"))
	}
	return errors.Join(errs...)
}
