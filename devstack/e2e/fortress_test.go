package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// fortress is the system as it runs in a hostile network: TLS on every link, the roles and users from the files
// in deploy/, and every secret in a file.
type fortress struct {
	t        *testing.T
	tree     string // the source, whose deploy/ and bin/ are used
	services []string
	ca       *testenv.Authority
	dir      string   // holds one file for each secret, by its variable
	admin    *url.URL // superuser of Postgres
	natsURL  *url.URL
	nats     *server.Server

	natsOptions *server.Options
	client      *http.Client
	addrs       map[string]string // of the listeners, by their variable
}

const operatorToken = "operator token of this test" // of this test only

func startFortress(t *testing.T) *fortress {
	t.Helper()
	return startFortressOf(t, repository, "member", "storage")
}

// startFortressOf runs the services of another source tree.
func startFortressOf(t *testing.T, tree string, services ...string) *fortress {
	t.Helper()
	f := &fortress{
		t: t, tree: tree, services: services, ca: testenv.NewAuthority(t), dir: t.TempDir(), addrs: map[string]string{},
	}
	f.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.ca.Pool(),
		MinVersion: tls.VersionTLS12}}, Timeout: 30 * time.Second}
	t.Cleanup(f.client.CloseIdleConnections)
	f.startPostgres()
	f.startNATS()
	f.addrs["MEMBER_ADMIN_ADDR"] = freeAddress(t)
	for _, service := range services {
		f.addrs[strings.ToUpper(service)+"_HTTP_ADDR"] = freeAddress(t)
	}
	f.ca.Issue(f.dir, "services")
	f.put("admin-tokens", tokenLine("ann", operatorToken))
	for _, name := range []string{"IDEMPOTENCY_SECRET", "STORAGE_TOKEN"} {
		f.put(name, "canary-"+name+"-0123456789012345678901234567890")
	}
	return f
}

// put replaces the file of a secret in one step.
func (f *fortress) put(name, content string) {
	f.t.Helper()
	draft := filepath.Join(f.dir, name+".new")
	if err := os.WriteFile(draft, []byte(content+"\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(draft, f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fortress) path(name string) string { return filepath.Join(f.dir, name) }

func tokenLine(name, token string) string {
	digest := sha256.Sum256([]byte(token))
	return name + ":operator:" + hex.EncodeToString(digest[:])
}

// startPostgres starts a server, runs the containers' script on it, and gives it a certificate.
func (f *fortress) startPostgres() {
	f.t.Helper()
	var err error
	postgres := start(f.t, "postgres", nil, devstack, "postgres")
	if f.admin, err = url.Parse(postgres.awaitVariable("DATABASE_URL", startLimit)); err != nil {
		f.t.Fatal(err)
	}
	script := mustRead(f.t, filepath.Join(f.tree, "deploy", "postgres-init.sql"))
	password := func(string) string { return "canaryPostgres" }
	if err := psql(f.t.Context(), script, password,
		func(database string) (*pgx.Conn, error) { return f.connect(f.admin.User, database) }); err != nil {
		f.t.Fatal(err)
	}
	cert, key := f.ca.Issue(f.t.TempDir(), "postgres")
	// The server writes the files itself, because it must own them. Their names are its defaults.
	for name, path := range map[string]string{"server.crt": cert, "server.key": key} {
		object := f.sql("-- name: loadFile\nSELECT lo_from_bytea(0, $1)", []byte(mustRead(f.t, path)))
		f.sql("-- name: writeFile\nSELECT lo_export("+object+", $1)", name)
	}
	f.sql("-- name: guardKey\nCOPY (SELECT 1) TO PROGRAM 'cat >/dev/null; chmod 600 server.key'")
	f.sql("-- name: useTLS\nALTER SYSTEM SET ssl = on")
	f.sql("-- name: reload\nSELECT pg_reload_conf()")
	eventually(f.t, time.Minute, "Postgres to speak TLS", func() bool {
		conn, err := pgx.Connect(f.t.Context(), f.database("member_app", "canaryPostgres", "member"))
		if err != nil {
			return false
		}
		return conn.Close(f.t.Context()) == nil
	})
}

// database returns the URL of a database over TLS, for a role.
func (f *fortress) database(role, password, name string) string {
	u := *f.admin
	u.User, u.Path = url.UserPassword(role, password), "/"+name
	u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {f.ca.File}}.Encode()
	return u.String()
}

// connect returns a connection without TLS.
func (f *fortress) connect(user *url.Userinfo, database string) (*pgx.Conn, error) {
	u := *f.admin
	u.User, u.Path = user, "/"+database
	return pgx.Connect(context.Background(), u.String())
}

// sql runs a statement as the superuser and returns the first column of the last row.
func (f *fortress) sql(statement string, arguments ...any) (last string) {
	f.t.Helper()
	conn, err := f.connect(f.admin.User, "postgres")
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(f.t.Context(), statement, arguments...)
	if err != nil {
		f.t.Fatalf("%s: %v", statement, err)
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			f.t.Fatal(err)
		}
		last = fmt.Sprint(values[0])
	}
	if err := rows.Err(); err != nil {
		f.t.Fatalf("%s: %v", statement, err)
	}
	return last
}

const auditorPassword = "auditor"

// natsOptions parses a tree's deploy/nats-server.conf.
func natsOptions(t *testing.T, tree string, services ...string) *server.Options {
	t.Helper()
	for _, service := range services {
		for _, role := range []string{"APP", "MIGRATOR"} {
			// Not t.Setenv: tests with the same passwords run beside each other.
			if err := os.Setenv("NATS_"+strings.ToUpper(service)+"_"+role+"_PASSWORD", "canaryNATS"); err != nil {
				t.Fatal(err)
			}
		}
	}
	options, err := server.ProcessConfigFile(filepath.Join(tree, "deploy", "nats-server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return options
}

// startNATS runs the server of deploy/nats-server.conf with TLS and one more user, who may see everything.
func (f *fortress) startNATS() {
	f.t.Helper()
	options := natsOptions(f.t, f.tree, f.services...)
	certFile, keyFile := f.ca.Issue(f.t.TempDir(), "nats")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		f.t.Fatal(err)
	}
	options.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	options.Users = append(options.Users, &server.User{Username: "auditor", Password: auditorPassword})
	options.StoreDir, options.Host, options.Port, options.HTTPPort = f.t.TempDir(), "127.0.0.1", freePort(f.t), 0
	options.NoSigs, options.NoLog = true, true
	f.natsOptions = options.Clone()
	if f.nats, err = server.NewServer(options); err != nil {
		f.t.Fatal(err)
	}
	f.nats.Start()
	f.t.Cleanup(func() { f.nats.Shutdown(); f.nats.WaitForShutdown() })
	if !f.nats.ReadyForConnections(time.Minute) {
		f.t.Fatal("NATS does not start")
	}
	f.natsURL = &url.URL{Scheme: "tls", Host: "127.0.0.1:" + strconv.Itoa(options.Port)}
}

func (f *fortress) natsAs(user, password string) string {
	u := *f.natsURL
	u.User = url.UserPassword(user, password)
	return u.String()
}

// migrate runs the migrate subcommand of each service, as its migrator, and leaves its broker subcommand running.
func (f *fortress) migrate() {
	f.t.Helper()
	for _, service := range f.services {
		c := f.run(service, "migrator", "migrate")
		if <-c.done; c.err != nil {
			f.t.Fatalf("%s migrate: %v\n%s", service, c.err, c.printed)
		}
	}
	for _, service := range f.services {
		f.run(service, "migrator", "broker")
	}
}

// serve starts a service as its app and waits until it is healthy. Additional variables are NAME=value.
func (f *fortress) serve(service string, variables ...string) *child {
	f.t.Helper()
	c := f.run(service, "app", "serve", variables...)
	f.healthy(service, c)
	return c
}

// healthy waits until the healthcheck subcommand succeeds.
func (f *fortress) healthy(service string, c *child) {
	f.t.Helper()
	eventually(f.t, time.Minute, service+" to be healthy", func() bool {
		select {
		case <-c.done:
			f.t.Fatalf("%s ended: %v\n%s", service, c.err, tail(c.printed.String()))
		default:
		}
		probe := f.run(service, "app", "healthcheck")
		<-probe.done
		return probe.err == nil
	})
}

func (f *fortress) run(service, role, command string, variables ...string) *child {
	f.t.Helper()
	name := strings.ToUpper(service) + "_DATABASE_URL"
	secret := map[string]string{name: f.database(service+"_"+role, "canaryPostgres", service),
		"NATS_URL": f.natsAs(service+"_"+role, "canaryNATS")}
	env := []string{
		"NATS_CA_FILE=" + f.ca.File, "SSL_CERT_FILE=" + f.ca.File, "DRAIN_DELAY=100ms",
		"NATS_SETUP=migrate", "LOG_LEVEL=debug", "FAULTS=on",
		"ADMIN_TOKENS_FILE=" + f.path("admin-tokens"), "TLS_CERT_FILE=" + f.path("tls.crt"), "TLS_KEY_FILE=" +
			f.path("tls.key"),
		"STORAGE_TOKEN_FILE=" + f.path("STORAGE_TOKEN"), "STORAGE_CLIENT_TOKEN_FILE=" + f.path("STORAGE_TOKEN"),
		"IDEMPOTENCY_SECRET_FILE=" + f.path("IDEMPOTENCY_SECRET"),
		"STORAGE_URL=https://" + f.addrs["STORAGE_HTTP_ADDR"], "PROVIDER_DIR=" + filepath.Join(f.dir, "provider"),
		"SMTP_ADDR=" + f.natsURL.Host,
		"SIGNUP_RATE_PER_MINUTE=1000000", "SESSION_RATE_PER_MINUTE=1000000", "HASH_MEMORY_KIB=64", "HASH_TIME=1",
		"PROVISION_PROMISE=2s", "STUCK_AFTER=1s",
	}
	for variable, value := range secret {
		file := service + strings.TrimPrefix("-"+role, "-app") + "-" +
			strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable, strings.ToUpper(service)+"_")), "_", "-")
		if _, err := os.Stat(f.path(file)); err != nil { // a test may have written another value
			f.put(file, value)
		}
		env = append(env, variable+"_FILE="+f.path(file))
	}
	for variable, address := range f.addrs {
		env = append(env, variable+"="+address)
	}
	program := filepath.Join(f.tree, "bin", service+"-svc")
	return start(f.t, service+" "+command, append(env, variables...), program, command)
}

// call makes a request over TLS and fails the test if there is no response.
func (f *fortress) call(method, listener, path, token, body string) answer {
	f.t.Helper()
	a, err := request(f.client, method, "https://"+f.addrs[listener]+path, body,
		map[string]string{"Authorization": "Bearer " + token})
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

// signUp makes a signup and returns the path of its state.
func (f *fortress) signUp(username string) (location string) {
	f.t.Helper()
	body := `{"username":"` + username + `","password":"a long enough one"}`
	a := f.call(http.MethodPost, "MEMBER_HTTP_ADDR", "/v1/members", "", body)
	if a.Status != http.StatusCreated {
		f.t.Fatalf("sign up: %+v", a)
	}
	return a.Header.Get("Location")
}

func (f *fortress) awaitState(location, state string) {
	f.t.Helper()
	eventually(f.t, time.Minute, location+" to be "+state, func() bool {
		return f.call(http.MethodGet, "MEMBER_HTTP_ADDR", location, "", "").Body["state"] == state
	})
}
