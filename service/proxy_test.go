package service_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/service"
)

// askThrough sends headers, as names and values, to a server that trusts some proxies. It returns what the
// server's handler learned and what was logged.
func askThrough(t *testing.T, trusted string, headers ...string) (learned string, logged *bytes.Buffer) {
	t.Helper()
	proxies, err := service.ParseProxies(strings.Split(trusted, ","))
	if err != nil {
		t.Fatal(err)
	}
	logged = new(bytes.Buffer)
	s := service.NewServer(service.ServerConfig{
		Name: "test", Addr: "127.0.0.1:0", Proxies: proxies, Log: slog.New(slog.NewTextHandler(logged, nil)),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, service.ClientAddress(r), " ", r.Host, " ", service.PathPrefix(r))
		}),
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	logged.Reset()
	go func() { _ = s.Serve() }()
	defer func() { _ = s.Shutdown(t.Context()) }()
	for range 2 { // twice: each kind of trouble is logged once
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "inner.example"
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header[headers[i]] = append(r.Header[headers[i]], headers[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		learned = string(body)
	}
	return learned, logged
}

func TestProxiesNameTheClient(t *testing.T) {
	const us, others = "127.0.0.0/8,10.0.0.0/8,fd00::/8", "192.0.2.0/24"
	const unknown, silent, garble = "outside TRUSTED_PROXIES", "sent no X-Forwarded-For", "cannot be read"
	for _, c := range []struct {
		trusted        string
		headers        []string // of X-Forwarded-For
		client, logged string
	}{
		{us, []string{"192.0.2.1"}, "192.0.2.1", ""},
		{us, []string{"1.1.1.4:5001"}, "1.1.1.4", ""},
		{us, []string{"[2001:db8::1]:443"}, "2001:db8::1", ""},
		{us, []string{"[2001:db8::1]"}, "2001:db8::1", ""},
		{us, []string{"2001:db8::1"}, "2001:db8::1", ""},
		{us, []string{"::ffff:192.0.2.1"}, "192.0.2.1", ""},
		{us, []string{"[::ffff:192.0.2.1]:80"}, "192.0.2.1", ""},
		{us, []string{"fe80::1%eth0"}, "fe80::1", ""},
		{us, []string{"[fe80::1%eth0]:5"}, "fe80::1", ""},
		{us, []string{"6.6.6.6, 192.0.2.1"}, "192.0.2.1", ""},
		{us, []string{"6.6.6.6,192.0.2.1:81 , 10.1.2.3:82"}, "192.0.2.1", ""},
		{us, []string{"6.6.6.6, 192.0.2.1, fd00::1, ::ffff:10.1.2.3"}, "192.0.2.1", ""},
		{us, []string{"6.6.6.6", "192.0.2.1\t", "10.1.2.3"}, "192.0.2.1", ""},
		{us, []string{"unknown, 192.0.2.1"}, "192.0.2.1", ""}, // what the client sent does not matter
		{us, []string{"192.0.2.1, ,", ""}, "192.0.2.1", ""},
		{us, []string{"10.1.2.3, 10.1.2.4"}, "10.1.2.3", ""}, // a client in the proxies' own network
		{us, []string{"192.0.2.1, unknown"}, "127.0.0.1", garble},
		{us, []string{"192.0.2.1, unknown, 10.1.2.3"}, "10.1.2.3", garble},
		{us, []string{"192.0.2.1, unix:"}, "127.0.0.1", garble},
		{us, []string{"192.0.2.1:80:80"}, "127.0.0.1", garble},
		{us, []string{"192.0.2.1 10.0.0.1"}, "127.0.0.1", garble},
		{us, []string{`for="[2001:db8::1]:443"`}, "127.0.0.1", garble},
		{us, []string{"192.0.2.256"}, "127.0.0.1", garble},
		{us, nil, "127.0.0.1", silent},
		{us, []string{" , "}, "127.0.0.1", silent},
		{others, []string{"192.0.2.1"}, "127.0.0.1", unknown},
		{others, nil, "127.0.0.1", ""},
		{"127.0.0.1", []string{"192.0.2.1, 127.0.0.2"}, "127.0.0.2", ""},
	} {
		var headers []string
		for _, value := range c.headers {
			headers = append(headers, "X-Forwarded-For", value)
		}
		learned, logged := askThrough(t, c.trusted, headers...)
		if client, _, _ := strings.Cut(learned, " "); client != c.client {
			t.Errorf("%s %q: %s, want %s", c.trusted, c.headers, client, c.client)
		}
		lines := strings.Count(logged.String(), "\n")
		if lines != min(1, len(c.logged)) || !strings.Contains(logged.String(), c.logged) {
			t.Errorf("%s %q: logged %q, want one line with %q", c.trusted, c.headers, logged, c.logged)
		}
	}
}

func TestForwardedIsIgnored(t *testing.T) {
	learned, _ := askThrough(t, "127.0.0.1", "X-Forwarded-For", "192.0.2.1",
		"Forwarded", "for=192.0.2.9;host=evil.example", "X-Real-Ip", "192.0.2.8")
	if want := "192.0.2.1 inner.example "; learned != want {
		t.Errorf("%q, want %q", learned, want)
	}
}

func TestProxiesTellHostAndPrefix(t *testing.T) {
	for _, c := range []struct {
		name, value, want string
	}{
		{"X-Forwarded-Host", "outer.example:8443", "outer.example:8443 "},
		{"X-Forwarded-Host", "[2001:db8::1]:8443", "[2001:db8::1]:8443 "},
		{"X-Forwarded-Host", "evil.example, outer.example", "outer.example "}, // the client's own value comes first
		{"X-Forwarded-Host", "Outer.Example:80", "outer.example "},            // as browsers write it in Origin
		{"X-Forwarded-Host", "outer.example:443", "outer.example:443 "},
		{"X-Forwarded-Host", "outer.example/path", "inner.example "},
		{"X-Forwarded-Host", `"outer.example"`, "inner.example "},
		{"X-Forwarded-Host", "", "inner.example "},
		{"X-Forwarded-Prefix", "/signup-saga", "inner.example /signup-saga"},
		{"X-Forwarded-Prefix", "/a/b/", "inner.example /a/b"},
		{"X-Forwarded-Prefix", "/", "inner.example "},
		{"X-Forwarded-Prefix", "//evil.example", "inner.example "},
		{"X-Forwarded-Prefix", "/a/../b", "inner.example "},
		{"X-Forwarded-Prefix", "/a/.", "inner.example "},
		{"X-Forwarded-Prefix", `/a"b`, "inner.example "},
		{"X-Forwarded-Prefix", "signup-saga", "inner.example "},
	} {
		learned, _ := askThrough(t, "127.0.0.1", "X-Forwarded-For", "192.0.2.1", c.name, c.value)
		if want := "192.0.2.1 " + c.want; learned != want {
			t.Errorf("%s %q: %q, want %q", c.name, c.value, learned, want)
		}
		learned, _ = askThrough(t, "192.0.2.0/24", c.name, c.value)
		if want := "127.0.0.1 inner.example "; learned != want {
			t.Errorf("a stranger's %s %q: %q, want %q", c.name, c.value, learned, want)
		}
	}
}

func TestTrustedProxiesAreChecked(t *testing.T) {
	for entry, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "fd00::/8": "fd00::/8", "fc00::/7": "fc00::/7", "10.1.2.3/8": "10.0.0.0/8",
		" 10.0.0.0/8": "10.0.0.0/8",
		"192.0.2.1":   "192.0.2.1/32", "2001:db8::1": "2001:db8::1/128",
		"::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:192.0.2.1": "192.0.2.1/32",
	} {
		if got, err := service.ParseProxies([]string{entry}); err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%q: %v, %v, want %s", entry, got, err, want)
		}
	}
	for entry, want := range map[string]string{
		"0.0.0.0/0": "entry 2: is wider than /8", "::/0": "entry 2: is wider than /7", "0.0.0.0/1": "wider",
		"2000::/3":          "wider",
		"::ffff:0.0.0.0/96": "wider",
		"::/64x":            "must be", "proxy.example": "must be", "10.0.0.0/33": "must be",
		"": "must be", "127.0.0.1:80": "must be",
	} {
		_, err := service.ParseProxies([]string{"10.0.0.1", entry})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", entry, err, want)
		}
	}
}
