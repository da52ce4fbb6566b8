package service_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// mounted is a volume with secrets in the form that Kubernetes gives it: file names are links through ..data to
// a folder, and ..data is swapped.
type mounted struct {
	t   testing.TB
	dir string
}

func mount(t testing.TB, names ...string) *mounted {
	t.Helper()
	m := &mounted{t: t, dir: t.TempDir()}
	for _, name := range names {
		m.must(os.Symlink(filepath.Join("..data", name), m.path(name)))
	}
	return m
}

func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

// swap replaces the content of the volume, in one step, by what fill writes to a folder.
func (m *mounted) swap(fill func(dir string)) {
	m.t.Helper()
	dir, err := os.MkdirTemp(m.dir, "..")
	m.must(err)
	fill(dir)
	m.must(os.Symlink(filepath.Base(dir), m.path("..data_tmp")))
	m.must(os.Rename(m.path("..data_tmp"), m.path("..data")))
}

func (m *mounted) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// secure starts a server with the certificate of a volume.
func secure(t testing.TB, m *mounted, handler http.HandlerFunc) (*service.Server, service.TLSFiles) {
	t.Helper()
	files := service.TLSFiles{CertFile: m.path("tls.crt"), KeyFile: m.path("tls.key")}
	config, err := files.ServerTLS(discard())
	if err != nil {
		t.Fatal(err)
	}
	s := service.NewServer(
		service.ServerConfig{Name: "test", Addr: "127.0.0.1:0", TLS: config, Handler: handler, Log: discard()})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	return s, files
}

// presented returns the name in the certificate that a server shows.
func presented(t testing.TB, addr string, pool *x509.CertPool, version uint16) (string, error) {
	t.Helper()
	// Old versions must be refused.
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: version})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestCertificateIsReplacedWhileItServes(t *testing.T) {
	ca, m := testenv.NewAuthority(t), mount(t, "tls.crt", "tls.key")
	m.swap(func(dir string) { ca.Issue(dir, "first") })
	s, files := secure(t, m, func(http.ResponseWriter, *http.Request) {})
	go func() { _ = s.Serve() }()
	defer func() { _ = s.Shutdown(t.Context()) }()
	shows := func(want string) {
		t.Helper()
		if got, err := presented(t, s.Addr(), ca.Pool(), 0); got != want || err != nil {
			t.Errorf("shows %q, want %q: %v", got, want, err)
		}
		if err := service.HealthcheckAddr(t.Context(), s.Addr(), files); err != nil {
			t.Error(err)
		}
	}
	shows("first")
	m.swap(func(dir string) { ca.Issue(dir, "second") })
	shows("second")
	// With a key without its certificate, a half-written file, or no file, the second certificate stays in use.
	m.swap(func(dir string) {
		other, _ := ca.Issue(dir, "other")
		cert, err := os.ReadFile(other)
		m.must(err)
		ca.Issue(dir, "third")
		write(t, other, string(cert))
	})
	shows("second")
	m.swap(func(dir string) {
		cert, _ := ca.Issue(dir, "cut")
		m.must(os.Truncate(cert, 100))
	})
	shows("second")
	m.swap(func(string) {})
	shows("second")
	m.swap(func(dir string) { ca.Issue(dir, "fourth") })
	shows("fourth")

	if _, err := presented(t, s.Addr(), ca.Pool(), tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	// The health check accepts only the listener's own certificate, whatever authority vouches for another one.
	dir := t.TempDir()
	cert, key := ca.Issue(dir, "fourth")
	if err := service.HealthcheckAddr(t.Context(), s.Addr(),
		service.TLSFiles{CertFile: cert, KeyFile: key}); err == nil {
		t.Error("another server's certificate passes the health check")
	}
}

func TestCertificateFilesAreChecked(t *testing.T) {
	t.Parallel()
	var check service.Checks
	service.TLSFiles{CertFile: "x"}.Validate(&check)
	if check.Err() == nil {
		t.Error("a certificate without a key is accepted")
	}
	missing := service.TLSFiles{CertFile: "/nonexistent", KeyFile: "/nonexistent"}
	if _, err := missing.ServerTLS(discard()); err == nil {
		t.Error("files that are not there are accepted")
	}
	if config, err := (service.TLSFiles{}).ServerTLS(discard()); config != nil || err != nil {
		t.Errorf("without files: %v, %v", config, err)
	}
}

// A request in flight over TLS when the server stops is answered, and so is the first request of a connection
// that was made before.
func TestShutdownOverTLSAnswersWhatIsInFlight(t *testing.T) {
	ca, m := testenv.NewAuthority(t), mount(t, "tls.crt", "tls.key")
	m.swap(func(dir string) { ca.Issue(dir, "server") })
	entered, release := make(chan struct{}), make(chan struct{})
	s, _ := secure(t, m, func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-release
		fmt.Fprint(w, "done")
	})
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(),
		MinVersion: tls.VersionTLS12}}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	answers := make(chan string, 1)
	go func() {
		resp, err := client.Get("https://" + s.Addr())
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answers <- resp.Proto + " " + string(body)
	}()
	<-entered
	quiet, err := tls.Dial("tcp", s.Addr(), &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	if err := <-served; err != nil { // it no longer accepts connections
		t.Error(err)
	}
	release <- struct{}{}
	if got := <-answers; got != "HTTP/1.1 done" {
		t.Errorf("answered %q", got)
	}
	if _, err := io.WriteString(quiet, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(quiet)
		answer <- string(text)
	}()
	select {
	case <-entered:
		release <- struct{}{}
	case text := <-answer:
		t.Fatalf("the quiet connection was closed: %q", text)
	}
	if got := <-answer; !strings.HasSuffix(got, "done") || !strings.Contains(got, "Connection: close") {
		t.Errorf("answered %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestTokensAreReplacedWhileTheyAreUsed(t *testing.T) {
	m := mount(t, "tokens")
	put := func(content string) {
		m.swap(func(dir string) { write(t, filepath.Join(dir, "tokens"), content) })
	}
	old, young := "old:operator:"+hash("the old token")+"\n", "young:operator:"+hash("the young token")+"\n"
	put(old)
	tokens, err := service.LoadTokens(m.path("tokens"), discard())
	if err != nil {
		t.Fatal(err)
	}
	handler := tokens.Require(service.RoleOperator)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, step := range []struct {
		name, content string
		a, b          int // status of the answer to each token
	}{
		{"both", old + young, 200, 200},
		{"a mistake", old + "young:operator:beef\n", 200, 200},
		{"nobody", "# nobody\n", 200, 200},
		{"the old one removed", young, 401, 200},
		{"demoted", "young:viewer:" + hash("the young token") + "\n", 401, 403},
	} {
		put(step.content)
		if a, b := status(handler, "the old token"), status(handler, "the young token"); a != step.a || b != step.b {
			t.Errorf("%s: answers %d and %d, want %d and %d", step.name, a, b, step.a, step.b)
		}
	}
	m.must(os.Remove(m.path("..data")))
	if got := status(handler, "the young token"); got != 403 {
		t.Errorf("without the file: %d", got)
	}
	put(old)
	// Written in place: by an editor, or because a single file is mounted.
	m.must(os.WriteFile(m.path("tokens"), []byte(young+"# longer\n"), 0o600))
	if got := status(handler, "the young token"); got != 200 {
		t.Errorf("written in place: %d", got)
	}
}
