package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// say sends the lines of a request unchanged and returns the answer.
func say(t *testing.T, url string, lines ...string) page {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, strings.Join(append(lines, "Connection: close", "", ""), "\r\n")); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(lines[0], " ")
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{answer.StatusCode, answer.Header, string(body)}
}

// needsAttention starts a service with one signup that needs attention, and returns the paths of the signup and
// of its saga.
func needsAttention(t *testing.T) (s *svc, signup, saga string) {
	t.Helper()
	broker := testenv.NATS(t)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		refusal := &contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
		return contract.StorageRejected, refusal
	})
	s = start(t, environment(t, storetest.URL(t), broker.URL))
	body := signUp(t, s, "mina")
	s.awaitState(t, body, "needs_attention")
	_, _, list, _ := call(t, "GET", s.admin+"/admin/v1/sagas?username=mina", "", viewer...)
	id := list["items"].([]any)[0].(map[string]any)["saga_id"].(string)
	return s, "/v1/signups/" + body["signup_id"].(string), "/admin/v1/sagas/" + id
}

// RFC 9110, 9.3.2: HEAD is GET without the body. 9.3.7, 15.5.6: Allow lists the methods of a resource.
func TestEveryResourceKnowsItsMethods(t *testing.T) {
	s, signup, saga := needsAttention(t)
	token := "Authorization: Bearer viewer-token"
	for _, resource := range []struct{ listener, path, allow string }{
		{s.public, "/", "GET, HEAD, POST, OPTIONS"},
		{s.public, "/assets/style.css", "GET, HEAD, OPTIONS"},
		{s.public, "/signup/" + strings.TrimPrefix(signup, "/v1/signups/"), "GET, HEAD, OPTIONS"},
		{s.public, "/signup/none", "GET, HEAD, OPTIONS"},
		{s.public, "/openapi.json", "GET, HEAD, OPTIONS"},
		{s.public, signup, "GET, HEAD, OPTIONS"},
		{s.public, signup + "0", "GET, HEAD, OPTIONS"},
		{s.public, "/v1/members", "POST, OPTIONS"},
		{s.public, "/v1/members/me", "GET, HEAD, DELETE, OPTIONS"},
		{s.admin, "/livez", "GET, HEAD, OPTIONS"},
		{s.admin, "/readyz", "GET, HEAD, OPTIONS"},
		{s.admin, "/metrics", "GET, HEAD, OPTIONS"},
		{s.admin, "/openapi.json", "GET, HEAD, OPTIONS"},
		{s.admin, saga, "GET, HEAD, OPTIONS"},
		{s.admin, "/admin/v1/overview", "GET, HEAD, OPTIONS"},
		{s.admin, saga + "/retry", "POST, OPTIONS"},
		{s.admin, "/console", "GET, HEAD, OPTIONS"},
		{s.admin, "/console/login", "GET, HEAD, POST, OPTIONS"},
		{s.admin, "/console/sagas", "GET, HEAD, OPTIONS"},
		{s.admin, "/console/assets/live.js", "GET, HEAD, OPTIONS"},
	} {
		request := func(method string) page {
			return say(t, resource.listener, method+" "+resource.path+" HTTP/1.1", "Host: x", token)
		}
		get, head := request("GET"), request("HEAD")
		for _, h := range []http.Header{get.header, head.header} {
			h.Del("Date")
			// The content of these differs each time.
			if slices.Contains([]string{"/metrics", "/", "/admin/v1/overview"}, resource.path) {
				h.Del("Content-Length")
			}
		}
		if get.status != head.status || !maps.EqualFunc(get.header, head.header, slices.Equal) || head.text != "" {
			t.Errorf("%s: GET %d %v", resource.path, get.status, get.header)
			t.Errorf("%s: HEAD %d %v %q", resource.path, head.status, head.header, head.text)
		}
		if n := get.header.Get("Content-Length"); n != "" && n != fmt.Sprint(len(get.text)) {
			t.Errorf("%s: Content-Length %s of %d bytes", resource.path, n, len(get.text))
		}
		if get.header.Get("Cache-Control") == "" || get.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", resource.path, get.header)
		}
		for method, status := range map[string]int{"OPTIONS": 204, "PATCH": 405, "TRACE": 405, "BREW": 501,
			"get": 501} {
			answer := request(method)
			allow := answer.header.Get("Allow")
			if answer.status != status || status != 501 && allow != resource.allow {
				t.Errorf("%s %s: %d %q, want %d %q",
					method, resource.path, answer.status, allow, status, resource.allow)
			}
		}
	}
	answer := say(t, s.public, "HEAD "+signup+"/events HTTP/1.1", "Host: x")
	if answer.status != 200 || answer.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD of a stream: %d %v", answer.status, answer.header)
	}
}

// RFC 9110, 13.1.1: If-Match is a list, compared strongly.
func TestIfMatchIsAList(t *testing.T) {
	s, _, saga := needsAttention(t)
	body := `{"reason":"room made"}`
	for _, c := range []struct {
		lines  []string
		status int
		code   string
	}{
		{[]string{`If-Match: "999", "998"`}, 412, "version_mismatch"},
		{[]string{`If-Match: W/"2"`}, 412, "version_mismatch"},
		{[]string{`If-Match: "02"`}, 412, "version_mismatch"},
		{[]string{`If-Match: "a,b", "x"`}, 412, "version_mismatch"},
		{[]string{`If-Match: 2`}, 400, "invalid_precondition"},
		{[]string{`If-Match: "2`}, 400, "invalid_precondition"},
		{[]string{`If-Match: "1" "2"`}, 400, "invalid_precondition"},
		{[]string{`If-Match: *, "2"`}, 400, "invalid_precondition"},
		{[]string{`If-Match: w/"2"`}, 400, "invalid_precondition"},
		{[]string{`If-Match: ,`}, 400, "invalid_precondition"},
		{[]string{`If-Match:`}, 400, "invalid_precondition"},
		{[]string{`If-Match: "999", "2"`}, 202, ""},
	} {
		lines := append([]string{"POST " + saga + "/retry HTTP/1.1", "Host: x", "Authorization: Bearer operator-token",
			"Content-Type: application/json", fmt.Sprint("Content-Length: ", len(body))}, c.lines...)
		answer := say(t, s.admin, append(lines, "Connection: close", "", body)...)
		if answer.status != c.status || !strings.Contains(answer.text, c.code) {
			t.Errorf("%q: %d %s, want %d %s", c.lines, answer.status, answer.text, c.status, c.code)
		}
	}
}
