package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
)

const (
	databaseLimit = time.Minute
	// prepareLimit covers the first start of the server and the migration of a template.
	prepareLimit = 5 * time.Minute
)

// cluster is the PostgreSQL server that the tests of this process share.
type cluster struct {
	mu        sync.Mutex
	url       string         // superuser, any database
	child     *child.Process // nil if TEST_DATABASE_URL is used
	templates map[string]*template
}

// template is a migrated database that tests copy.
type template struct {
	once     sync.Once
	database string
	err      error
}

var shared = &cluster{templates: map[string]*template{}}

// Database returns the URL (superuser) of a fresh database for this test, which is dropped when the test ends.
// The database is a copy of a template, which migrate prepared once per test process and name; copying takes
// milliseconds. migrate may be nil.
func Database(t testing.TB, name string, migrate func(ctx context.Context, url string) error) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), prepareLimit)
	defer cancel()
	if err := shared.start(); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	source, err := shared.template(ctx, name, migrate)
	if err != nil {
		t.Fatalf("prepare the %s database: %v", name, err)
	}
	database := unique("test_" + name)
	if err := shared.copyDatabase(ctx, database, source); err != nil {
		t.Fatalf("create a database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), databaseLimit)
		defer cancel()
		if err := shared.exec(ctx, dropDatabase(database)); err != nil {
			t.Errorf("drop the database: %v", err)
		}
	})
	return shared.in(database)
}

// Cluster returns the URL (superuser) of the database "postgres" in a cluster of the test's own, which ends with
// the test. The cluster runs on this machine even if TEST_DATABASE_URL is set. The test may crash or damage it.
// It takes a second or two to start.
func Cluster(t testing.TB) string {
	t.Helper()
	return database(t, "postgres")
}

// PgBouncer starts a PgBouncer in front of the database with this URL and returns the URL that leads through it.
// It runs in transaction mode, without passwords and with three sessions. It ends with the test.
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
		if err := started.Close(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return url
}

func (c *cluster) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.url != "" {
		return nil
	}
	if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
		c.url = given
		return nil
	}
	started, printed, err := launch("DATABASE_URL", "postgres")
	if err != nil {
		return err
	}
	c.child, c.url = started, printed
	return nil
}

func (c *cluster) template(
	ctx context.Context, name string, migrate func(context.Context, string) error,
) (string, error) {
	c.mu.Lock()
	t := c.templates[name]
	if t == nil {
		t = &template{database: unique("template_" + name)}
		c.templates[name] = t
	}
	c.mu.Unlock()
	t.once.Do(func() {
		if t.err = c.copyDatabase(ctx, t.database, "template0"); t.err == nil && migrate != nil {
			t.err = migrate(ctx, c.in(t.database))
		}
	})
	return t.database, t.err
}

func (c *cluster) copyDatabase(ctx context.Context, database, source string) error {
	return c.exec(ctx, fmt.Sprintf("-- name: createDatabase\nCREATE DATABASE %s TEMPLATE %s", quote(database),
		quote(source)))
}

func dropDatabase(database string) string {
	return fmt.Sprintf("-- name: dropDatabase\nDROP DATABASE IF EXISTS %s WITH (FORCE)", quote(database))
}

// exec runs one statement. PostgreSQL makes one copy of a template at a time, and waits up to five seconds for
// the sessions in the template to end. ctx limits both.
func (c *cluster) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, c.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// in returns the URL of another database of the cluster.
func (c *cluster) in(database string) string {
	u, err := url.Parse(c.url)
	if err != nil {
		return c.url // pgx reports what is wrong with it
	}
	u.Path = "/" + database
	return u.String()
}

// close stops the server that was started, or drops the templates of a given server, which keeps running.
func (c *cluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), databaseLimit)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child != nil {
		return c.child.Close()
	}
	var errs []error
	for _, t := range c.templates {
		errs = append(errs, c.exec(ctx, dropDatabase(t.database)))
	}
	return errors.Join(errs...)
}

// unique returns a database name that no other test process uses.
func unique(name string) string {
	const limit = 40 // PostgreSQL truncates names to 63 bytes
	return name[:min(len(name), limit)] + "_" + strings.ToLower(rand.Text()[:16])
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
