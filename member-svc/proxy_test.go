package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

// A trusted proxy that rewrites Host passes the host that the client requested. From anyone else, that header
// is ignored.
func TestFormsBehindAProxyThatRewritesTheHost(t *testing.T) {
	trusted := behindProxy(t)
	stranger := start(t, environment(t, storetest.URL(t), "nats://127.0.0.1:1"))
	for i, c := range []struct {
		s              *svc
		origin, told   string
		signUp, logins int
	}{
		{trusted, "https://example.org:8443", "example.org:8443", 303, 401},
		{trusted, "https://evil.example", "example.org:8443", 403, 403},
		{trusted, "null", "example.org:8443", 403, 403},
		{trusted, "https://evil.example", "evil.example, example.org:8443", 403, 403},
		{trusted, trusted.public, "example.org:8443", 403, 403},
		{stranger, "https://evil.example", "evil.example", 403, 403},
	} {
		headers := []string{"Origin", c.origin, "X-Forwarded-Host", c.told, "X-Forwarded-For", "192.0.2.1"}
		sent := browse(t, c.s.public+"/", entries(fmt.Sprint("mina", i), fmt.Sprint("key", i)), headers...)
		login := browse(t, c.s.admin+"/console/login", map[string][]string{"token": {"x"}}, headers...)
		if sent.status != c.signUp || login.status != c.logins {
			t.Errorf("%s, told %s: %d and %d", c.origin, c.told, sent.status, login.status)
		}
	}
}

// The API's links begin with the prefix that a trusted proxy has removed. A prefix from anyone else is ignored.
func TestLinksOfTheAPIHaveThePrefix(t *testing.T) {
	s := behindProxy(t)
	proxied := []string{"X-Forwarded-Prefix", "/signup-saga", "X-Forwarded-For", "192.0.2.1", "Idempotency-Key", "k"}
	for _, c := range []struct {
		headers []string
		prefix  string
	}{
		{proxied, "/signup-saga"}, {proxied, "/signup-saga"}, {[]string{"Idempotency-Key", "k"}, ""},
		{[]string{"X-Forwarded-Prefix", "//evil.example", "Idempotency-Key", "k"}, ""},
	} {
		status, header, body, raw := call(t, "POST", s.public+"/v1/members", newMember("mina"), c.headers...)
		path := c.prefix + "/v1/signups/" + fmt.Sprint(body["signup_id"])
		if status != 201 || header.Get("Location") != path || !strings.Contains(raw, `"self":"`+path+`"`) {
			t.Errorf("%v: %d to %s: %s", c.headers, status, header.Get("Location"), raw)
		}
		own := strings.TrimPrefix(path, c.prefix)
		_, _, _, raw = call(t, "GET", s.public+own, "", c.headers...)
		stream := follow(t, s, own+"/events", c.headers...)
		if want := `"events":"` + path + `/events"`; !strings.Contains(raw, want) {
			t.Errorf("no %s in %s", want, raw)
		}
		if stream.status != 200 {
			t.Errorf("the stream: %d", stream.status)
		}
	}
}

// A list for operators is compressed, and has the same content as without compression.
func TestListsAreCompressed(t *testing.T) {
	s := start(t, environment(t, storetest.URL(t), "nats://127.0.0.1:1"))
	for i := range 60 {
		signUp(t, s, fmt.Sprint("member", i))
	}
	get := func(coding string) []byte {
		list := s.admin + "/admin/v1/sagas?limit=60"
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, list, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer viewer-token")
		r.Header.Set("Accept-Encoding", coding)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != 200 || answer.Header.Get("Vary") != "Accept-Encoding" {
			t.Fatalf("%s %v %v", answer.Status, answer.Header, err)
		}
		return body
	}
	plain, small := get("identity"), get("gzip")
	reader, err := gzip.NewReader(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(reader)
	if err != nil || len(all) != len(plain) || len(small)*4 > len(plain) {
		t.Errorf("%d bytes, %d compressed, %v", len(plain), len(small), err)
	}
	t.Logf("%d bytes, %d compressed", len(plain), len(small))
}

// Networks of clients cannot be trusted by mistake.
func TestTrustedProxiesAreCheckedAtTheStart(t *testing.T) {
	for value, want := range map[string]string{
		"0.0.0.0/0": "TRUSTED_PROXIES: entry 1: is wider", "10.0.0.1,::/0": "TRUSTED_PROXIES: entry 2: is wider",
		"proxy": "TRUSTED_PROXIES: entry 1: must be an address or a network", "10.0.0.1": "", "10.0.0.0/8,fd00::/8": "",
	} {
		env := environment(t, "postgres://x", "nats://127.0.0.1:1")
		env["TRUSTED_PROXIES"] = value
		err := service.LoadConfig(func(name string) string { return env[name] }, &Config{})
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
}
