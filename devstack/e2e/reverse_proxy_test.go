package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// TestReverseProxies runs the configurations of docs/reverse-proxy.md exactly as printed, in front of a real system.
func TestReverseProxies(t *testing.T) {
	s := startStack(t, []string{"TRUSTED_PROXIES=127.0.0.1", "MAX_STREAMS=8", "PROVISION_PROMISE=1h"})
	s.provider("outage") // signups wait, and their streams stay open
	ca := testenv.NewAuthority(t)
	dir := stackDir(t)
	cert, key := ca.Issue(dir, "example.org")
	pem := filepath.Join(dir, "both.pem")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(pem, mustRead(t, cert)+mustRead(t, key))
	address := func(name string) string { return strings.TrimPrefix(s.env[name], "http://") }
	_, admin, _ := net.SplitHostPort(address("ADMIN_URL"))
	for _, proxy := range []string{"nginx", "haproxy"} {
		t.Run(proxy, func(t *testing.T) {
			listen := fmt.Sprintf("127.0.0.1:%d", freePort(t))
			config, file := printed(t, proxy), filepath.Join(dir, proxy+".cfg")
			for old, here := range map[string]string{
				"listen 443 ssl": "listen " + listen + " ssl", "bind :443": "bind " + listen,
				"127.0.0.1:8080": address("MEMBER_URL"), "port 8081": "port " + admin,
				"/etc/ssl/example.org.crt": cert, "/etc/ssl/example.org.key": key, "/etc/haproxy/example.org.pem": pem,
			} {
				config = strings.ReplaceAll(config, old, here)
			}
			var args []string
			if proxy == "nginx" {
				config = "daemon off; error_log stderr; pid " + dir + "/nginx.pid;\nevents {}\n" +
					"http {\naccess_log off;\n" + temporary(dir) + config + "}\n"
				args = []string{"-p", dir, "-e", "stderr", "-c", file}
			} else {
				args = []string{"-db", "-f", file}
			}
			write(file, config)
			program, libraries := findProxy(t, proxy)
			start(t, proxy, append(os.Environ(), "LD_LIBRARY_PATH="+libraries), program, args...)
			eventually(t, 30*time.Second, proxy, func() bool {
				conn, err := net.Dial("tcp", listen)
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
			trusted := &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
			front := &front{t: t, base: "https://" + listen, tls: trusted}
			front.pages(proxy)
			front.limits(front.api(proxy), map[string]string{"nginx": "127.0.1.", "haproxy": "127.0.2."}[proxy])
		})
	}
}

// printed returns a code block of docs/reverse-proxy.md.
func printed(t *testing.T, language string) string {
	t.Helper()
	page := mustRead(t, filepath.Join(repository, "docs", "reverse-proxy.md"))
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(page)
	if block == nil {
		t.Fatalf("docs/reverse-proxy.md has no configuration of %s", language)
	}
	return block[1]
}

// temporary returns settings that make nginx write its temporary files into dir.
func temporary(dir string) (config string) {
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	return config
}

// findProxy returns the installed program. On Debian without it, it returns one from Debian's archive, which is
// deleted after the test, and the folder of its libraries.
func findProxy(t *testing.T, name string) (program, libraries string) {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		found, err := exec.LookPath(path)
		if err == nil {
			return found, ""
		}
		if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	packages := map[string]string{
		"nginx": "nginx", "haproxy": "haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1",
	}
	fetch := exec.CommandContext(t.Context(), "sh", "-ec",
		`apt-get download `+packages[name]+`; for package in *.deb; do dpkg-deb --extract "$package" .; done`)
	fetch.Dir = stackDir(t)
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Fatalf("%s is not installed (apt install %[1]s), and fetching it failed: %v\n%s", name, err, out)
	}
	found, err := filepath.Glob(filepath.Join(fetch.Dir, "usr", "lib", "*-linux-gnu"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(fetch.Dir, "usr", "sbin", name), strings.Join(found, ":")
}

// front is the system as clients see it through a proxy.
type front struct {
	t    *testing.T
	base string // without the prefix
	tls  *tls.Config
}

// said is a response whose body has been read.
type said struct {
	Status     string
	StatusCode int
	Header     http.Header
	ProtoMajor int
	target     *url.URL
}

// Location returns the URL that the response redirects to.
func (a said) Location() (*url.URL, error) { return a.target.Parse(a.Header.Get("Location")) }

// do sends a request from an address of this machine. It does not follow redirects.
func (f *front) do(from, method, path, body string, headers ...string) (said, string) {
	f.t.Helper()
	response := f.open(f.t.Context(), from, method, path, body, headers...)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return said{
		response.Status, response.StatusCode, response.Header, response.ProtoMajor, response.Request.URL,
	}, string(text)
}

func (f *front) open(ctx context.Context, from, method, path, body string, headers ...string) *http.Response {
	f.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: f.tls, ForceAttemptHTTP2: true}
	request, err := http.NewRequestWithContext(ctx, method, f.base+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	f.t.Cleanup(transport.CloseIdleConnections)
	return response
}

// pages signs a person up in a browser that does not send Sec-Fetch-Site.
func (f *front) pages(name string) {
	t := f.t
	t.Helper()
	const browser, prefix = "127.0.0.2", "/signup-saga"
	there, _ := f.do(browser, "GET", prefix, "")
	if to, err := there.Location(); err != nil || to.Path != prefix+"/" {
		t.Errorf("without the slash: %s to %v, %v", there.Status, to, err)
	}
	form, text := f.do(browser, "GET", prefix+"/", "")
	if form.StatusCode != 200 || form.ProtoMajor != 2 || form.Header.Get("Strict-Transport-Security") == "" {
		t.Fatalf("the page: %s HTTP/%d %v", form.Status, form.ProtoMajor, form.Header)
	}
	links := regexp.MustCompile(`(?:href|src|action)="([^"#]+)"`).FindAllStringSubmatch(text, -1)
	if len(links) < 5 {
		t.Errorf("%d links", len(links))
	}
	for _, link := range links {
		to, err := form.target.Parse(link[1])
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := f.do(browser, "GET", to.RequestURI(), "", "Accept-Encoding", "gzip"); got.StatusCode != 200 {
			t.Errorf("%s: %s", to, got.Status)
		}
	}
	key := regexp.MustCompile(`name="key" value="([^"]+)"`).FindStringSubmatch(text)
	fields := url.Values{"key": {key[1]}, "username": {name + "-page"}, "password": {"a long enough one"}}.Encode()
	post := func(origin string) said {
		t.Helper()
		sent, _ := f.do(browser, "POST", prefix+"/", fields,
			"Content-Type", "application/x-www-form-urlencoded", "Origin", origin)
		return sent
	}
	for _, origin := range []string{"https://evil.example", "null", "http://signup_saga"} {
		if sent := post(origin); sent.StatusCode != 403 {
			t.Errorf("a form from %s: %s", origin, sent.Status)
		}
	}
	sent := post(f.base)
	progress, err := sent.Location()
	if sent.StatusCode != 303 || err != nil || !strings.HasPrefix(progress.Path, prefix+"/signup/") {
		t.Fatalf("the form: %s to %v, %v", sent.Status, progress, err)
	}
	shown, text := f.do(browser, "GET", progress.Path, "")
	events := regexp.MustCompile(`data-events="([^"]+)"`).FindStringSubmatch(text)
	if shown.StatusCode != 200 || events == nil {
		t.Fatalf("%s\n%s", shown.Status, text)
	}
	to, err := shown.target.Parse(events[1])
	if err != nil {
		t.Fatal(err)
	}
	f.streams(to.Path)
}

// streams checks that a proxy forwards the beginning of a stream that does not end.
func (f *front) streams(path string) {
	t := f.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream := f.open(ctx, "127.0.0.2", "GET", path, "", "Accept", "text/event-stream", "Accept-Encoding", "gzip")
	defer stream.Body.Close()
	for lines := bufio.NewScanner(stream.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data: ") {
			return
		}
	}
	t.Errorf("%s: %s, and no event arrives in 10 s", path, stream.Status)
}

// api signs a person up through the API, whose paths begin with the prefix, and returns the path of the signup.
func (f *front) api(name string) (path string) {
	t := f.t
	t.Helper()
	body := fmt.Sprintf(`{"username":"%s-api","password":"a long enough one"}`, name)
	for range 2 { // the second response repeats the first
		created, text := f.do("127.0.0.3", "POST", "/signup-saga/v1/members", body,
			"Content-Type", "application/json", "Idempotency-Key", name)
		path = created.Header.Get("Location")
		if created.StatusCode != 201 || !strings.HasPrefix(path, "/signup-saga/v1/signups/sgn_") ||
			!strings.Contains(text, `"self":"`+path+`"`) || !strings.Contains(text, `"events":"`+path+`/events"`) {
			t.Fatalf("%s to %q: %s", created.Status, path, text)
		}
		got, text := f.do("127.0.0.3", "GET", path, "")
		if got.StatusCode != 200 || !strings.Contains(text, `"`+path+`"`) {
			t.Errorf("%s: %s %s", path, got.Status, text)
		}
		f.streams(path + "/events")
	}
	got, text := f.do("127.0.0.3", "GET", "/signup-saga/openapi.json", "")
	if got.StatusCode != 200 || !strings.Contains(text, `"url":"."`) {
		t.Errorf("the document: %s", got.Status)
	}
	return path
}

// limits checks that each client of a network may open two streams, whatever address it claims.
func (f *front) limits(path, network string) {
	t := f.t
	t.Helper()
	for i, c := range []struct{ client, status int }{{1, 200}, {1, 200}, {1, 429}, {2, 200}} {
		stream := f.open(t.Context(), network+fmt.Sprint(c.client), "GET", path+"/events", "",
			"X-Forwarded-For", fmt.Sprint("192.0.2.", i))
		defer stream.Body.Close()
		if stream.StatusCode != c.status {
			t.Errorf("stream %d of client %d: %s, want %d", i, c.client, stream.Status, c.status)
		}
	}
}
