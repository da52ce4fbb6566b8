package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats-server/v2/server"
)

var looksSecret = regexp.MustCompile(`URL|SECRET|TOKEN|PASS|PEPPER|KEY|CREDENTIAL|DSN`)

// Every variable that may hold a secret has a type that does not print it. File names are not secrets.
func TestEverySecretIsOfTheTypeSecret(t *testing.T) {
	secrets := 0
	for _, module := range []string{"service", "member-svc", "storage-svc"} {
		err := filepath.WalkDir(filepath.Join(repository, module), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				field, ok := n.(*ast.Field)
				if !ok || field.Tag == nil {
					return true
				}
				text, _ := strconv.Unquote(field.Tag.Value)
				name, _, _ := strings.Cut(reflect.StructTag(text).Get("env"), ",")
				if !looksSecret.MatchString(name) || strings.HasSuffix(name, "_FILE") {
					return true
				}
				switch kind := fieldType(field.Type); kind {
				case "Secret", "service.Secret":
					secrets++
				case "int", "time.Duration":
				default:
					t.Errorf("%s: %s looks like a secret, and is a %s", path, name, kind)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if secrets < 10 {
		t.Errorf("only %d secrets found", secrets)
	}
}

func fieldType(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return fieldType(x.X) + "." + x.Sel.Name
	default:
		return fmt.Sprintf("%T", x)
	}
}

// traffic signs people up and calls the admin API, each time over a new connection, until it is stopped.
type traffic struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	token    string // of the operator
	answered int
	failed   []string
}

func (f *fortress) traffic() *traffic {
	l := &traffic{stop: make(chan struct{}), token: operatorToken}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: f.ca.Pool(), MinVersion: tls.VersionTLS12},
	}}
	for worker := range 3 {
		l.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				body := fmt.Sprintf(`{"username":"load-%d-%d","password":"a long enough one"}`, worker, n)
				a, err := request(client, http.MethodPost, "https://"+f.addrs["MEMBER_HTTP_ADDR"]+"/v1/members", body,
					nil)
				l.count(a.Status == http.StatusCreated, "sign up", a, err)
				l.mu.Lock()
				bearer := "Bearer " + l.token
				l.mu.Unlock()
				a, err = request(client, http.MethodGet, "https://"+f.addrs["MEMBER_ADMIN_ADDR"]+
					"/admin/v1/sagas?limit=1", "", map[string]string{"Authorization": bearer})
				l.count(a.Status == http.StatusOK, "list sagas", a, err)
			}
		})
	}
	return l
}

func (l *traffic) count(ok bool, what string, a answer, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answered++
	if !ok || err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s: %d %v %v", what, a.Status, a.Body, err))
	}
}

// more waits until 20 more requests have been answered.
func (l *traffic) more(t testing.TB) {
	t.Helper()
	count := func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.answered }
	target := count() + 20
	eventually(t, time.Minute, "some load", func() bool { return count() >= target })
}

// TestSecretsAreRotatedUnderLoad replaces one secret after the other as docs/secrets.md says, while people sign
// up and an operator reads. No request fails, and the replaced secrets no longer work.
func TestSecretsAreRotatedUnderLoad(t *testing.T) {
	f := startFortress(t)
	f.migrate()
	storage := f.serve("storage")
	f.put("member-database-url", f.database("member_app", "canaryPostgres", "member")+"&pool_max_conn_lifetime=1s")
	member := f.serve("member")
	load := f.traffic()
	load.more(t)
	t.Run("database", func(t *testing.T) { f.rotateDatabase(t, load) })
	t.Run("admin token", func(t *testing.T) { f.rotateToken(t, load) })
	t.Run("certificate", func(t *testing.T) { f.rotateCertificate(t, load) })
	t.Run("nats", func(t *testing.T) { f.rotateNATS(t) })
	load.more(t)
	close(load.stop)
	load.wg.Wait()
	t.Logf("%d requests, %d failed", load.answered, len(load.failed))
	for _, failure := range load.failed[:min(len(load.failed), 5)] {
		t.Error(failure)
	}
	f.awaitState(f.signUp("last"), "ready")
	for _, c := range []*child{storage, member} {
		log := c.printed.String()
		if !strings.Contains(log, "INF configuration ") {
			t.Errorf("%s does not log its configuration", c.name)
		}
		for _, secret := range []string{"canary", operatorToken, "the next token"} {
			if i := strings.Index(log, secret); i >= 0 {
				t.Errorf("%s logs a secret: %s", c.name, log[max(0, i-200):i+40])
			}
		}
	}
}

// snippet returns an example of docs/secrets.md by the words after its fence.
func snippet(t testing.TB, name string) string {
	t.Helper()
	_, rest, found := strings.Cut(mustRead(t, filepath.Join(repository, "docs", "secrets.md")), "\n```"+name+"\n")
	text, _, closed := strings.Cut(rest, "\n```\n")
	if !found || !closed {
		t.Fatalf("docs/secrets.md has no example %s", name)
	}
	return text
}

// shell runs an example in the folder of the secrets.
func (f *fortress) shell(t *testing.T, name string, variables ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", snippet(t, "sh "+name))
	cmd.Env = append(os.Environ(), append(variables, "SECRETS="+f.dir)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (f *fortress) rotateDatabase(t *testing.T, load *traffic) {
	f.sql(strings.ReplaceAll(snippet(t, "sql next-role"), ":'password'", "'canaryNext'"))
	f.shell(t, "next-database-url", "PASSWORD=canaryNext")
	eventually(t, time.Minute, "the sessions of the old role to end", func() bool {
		return f.sql("-- name: oldSessions\nSELECT count(*) FROM pg_stat_activity WHERE usename = 'member_app'") == "0"
	})
	f.sql(snippet(t, "sql close-old-role"))
	load.more(t)
	if n := f.sql(
		"-- name: newSessions\nSELECT count(*) FROM pg_stat_activity WHERE usename = 'member_app_b'"); n == "0" {
		t.Error("nobody uses the new role")
	}
}

func (f *fortress) rotateToken(t *testing.T, load *traffic) {
	const next = "the next token"
	f.shell(t, "add-token", "TOKEN="+next)
	load.mu.Lock()
	load.token = next
	load.mu.Unlock()
	load.more(t)
	f.shell(t, "remove-token")
	if a := f.call(http.MethodGet, "MEMBER_ADMIN_ADDR", "/admin/v1/sagas", operatorToken,
		""); a.Status != http.StatusUnauthorized {
		t.Errorf("the old token is answered %d", a.Status)
	}
	load.more(t)
}

func (f *fortress) rotateCertificate(t *testing.T, load *traffic) {
	issued := t.TempDir()
	f.ca.Issue(issued, "renewed")
	f.shell(t, "certificate", "NEW="+issued)
	load.more(t)
	for name, address := range f.addrs {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: f.ca.Pool(), MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		if shown := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; shown != "renewed" {
			t.Errorf("%s shows the certificate of %s", name, shown)
		}
		_ = conn.Close()
	}
	for _, service := range []string{"member", "storage"} {
		probe := f.run(service, "app", "healthcheck")
		if <-probe.done; probe.err != nil {
			t.Errorf("%s: %v\n%s", service, probe.err, probe.printed)
		}
	}
}

// rotateNATS changes both services' passwords on the server, which disconnects them. The last signup shows that
// they are connected again.
func (f *fortress) rotateNATS(t *testing.T) {
	next := f.natsOptions.Clone()
	next.Users = nil
	for _, u := range f.natsOptions.Users {
		changed := &server.User{Username: u.Username, Password: u.Password, Permissions: u.Permissions}
		if service, isApp := strings.CutSuffix(u.Username, "_app"); isApp {
			changed.Password = "canaryNext"
			f.put(service+"-nats-url", f.natsAs(u.Username, changed.Password))
		}
		next.Users = append(next.Users, changed)
	}
	if err := f.nats.ReloadOptions(next); err != nil {
		t.Fatal(err)
	}
}

// TestPostgresRolesMayDoWhatTheyNeedAndNoMore tries what an attacker with a service's password would. Every
// other test of the fortress shows that the roles have enough rights.
func TestPostgresRolesMayDoWhatTheyNeedAndNoMore(t *testing.T) {
	f := startFortress(t)
	f.migrate()
	for role, databases := range map[string][2]string{
		"member_app": {"member", "storage"}, "storage_app": {"storage", "member"},
		"member_migrator": {"member", "storage"}, "storage_migrator": {"storage", "member"},
	} {
		own, other := databases[0], databases[1]
		refuse := func(what string, err error) {
			t.Helper()
			var refused *pgconn.PgError
			if !errors.As(err, &refused) || refused.Code != "42501" { // insufficient_privilege
				t.Errorf("%s, %s: %v", role, what, err)
			}
		}
		_, err := f.connect(url.UserPassword(role, "canaryPostgres"), other)
		refuse("the other database", err)
		_, err = f.connect(url.UserPassword(role, "canaryPostgres"), "postgres")
		refuse("the administrator's database", err)
		conn, err := f.connect(url.UserPassword(role, "canaryPostgres"), own)
		if err != nil {
			t.Fatal(err)
		}
		attempts := []string{
			"CREATE ROLE x", "ALTER ROLE member_app SUPERUSER", "CREATE DATABASE x", "COPY (SELECT 1) TO PROGRAM 'id'",
			"COPY (SELECT 1) TO '/tmp/x'",
			"SELECT pg_read_file('/etc/passwd')", "SELECT * FROM pg_authid", "ALTER SYSTEM SET fsync = off",
			"SET session_replication_role = replica",
		}
		if strings.HasSuffix(role, "_app") {
			table := own
			attempts = append(attempts, "SET ROLE "+own+"_migrator", "CREATE TABLE x (y int)",
				"CREATE TEMP TABLE x (y int)", "CREATE SCHEMA x", "DROP TABLE "+table,
				"ALTER TABLE "+table+" ADD COLUMN x int", "TRUNCATE "+table, "CREATE INDEX ON "+table+" (id)",
				"CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'")
		}
		if role == "member_app" {
			attempts = append(attempts,
				"UPDATE admin_audit SET actor = 'x'", "DELETE FROM admin_audit", "TRUNCATE admin_audit",
				"ALTER TABLE admin_audit DISABLE TRIGGER audit_is_kept", "DROP TRIGGER audit_is_kept ON admin_audit",
				"DROP FUNCTION refuse_audit_change() CASCADE")
		}
		for _, sql := range attempts {
			_, err := conn.Exec(t.Context(), "-- name: attempt\n"+sql)
			refuse(sql, err)
		}
		// Postgres lets every role change its own password; docs/secrets.md describes the consequences.
		_, err = conn.Exec(t.Context(), "-- name: ownPassword\nALTER ROLE "+role+" PASSWORD 'canaryPostgres'")
		if err != nil {
			t.Errorf("%s: %v", role, err)
		}
		_ = conn.Close(context.Background())
	}
}
