package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// behindProxy starts a service that trusts this test's statements about clients.
func behindProxy(t *testing.T, variables ...string) *svc {
	t.Helper()
	env := environment(t, storetest.URL(t), "nats://127.0.0.1:1")
	env["TRUSTED_PROXIES"] = "127.0.0.0/8,::1/128,10.0.0.0/8"
	for i := 0; i+1 < len(variables); i += 2 {
		env[variables[i]] = variables[i+1]
	}
	return start(t, env)
}

// guess tries a password for a name. It returns the status, negative if there is a Retry-After.
func guess(t *testing.T, s *svc, forwarded, name, phrase string) int {
	t.Helper()
	status, header, _, _ := call(t, "POST", s.public+"/v1/sessions",
		fmt.Sprintf(`{"username":%q,"password":%q}`, name, phrase), "X-Forwarded-For", forwarded)
	if header.Get("Retry-After") != "" {
		return -status
	}
	return status
}

func TestClientsBehindProxiesAreDistinguished(t *testing.T) {
	s := behindProxy(t, "SESSION_RATE_PER_MINUTE", "2")
	for i, c := range []struct {
		forwarded string
		want      int
	}{
		{"192.0.2.1", 401},
		{"6.6.6.6, 192.0.2.1", 401},            // the part that the client wrote is not trusted
		{"6.6.6.6, 192.0.2.1, 10.1.2.3", -429}, // another trusted proxy is not taken for the client
		{"192.0.2.2", 401},
		{"2001:db8::1", 401},
		{"2001:db8::2", 401},
		{"2001:db8::3", -429}, // one network counts as one client
		{"2001:db8:0:1::3", 401},
	} {
		if got := guess(t, s, c.forwarded, fmt.Sprint("name", i), "x"); got != c.want {
			t.Errorf("%d, %s: %d, want %d", i, c.forwarded, got, c.want)
		}
	}
	env := environment(t, storetest.URL(t), "nats://127.0.0.1:1")
	env["SESSION_RATE_PER_MINUTE"] = "2"
	s = start(t, env)
	for i, want := range []int{401, 401, -429} {
		if got := guess(t, s, fmt.Sprint("192.0.2.", i), fmt.Sprint("name", i), "x"); got != want {
			t.Errorf("an unknown peer's header is believed: %d, want %d", got, want)
		}
	}
}

// Many addresses together cannot guess one name's password faster than one address, whether or not the name
// exists. The member can still sign in.
func TestGuessersDoNotLockTheMemberOut(t *testing.T) {
	s := behindProxy(t, "SESSION_RATE_PER_MINUTE", "5")
	signUp(t, s, "mina")
	var seen [2][]int
	for i, name := range []string{"mina", "nobody"} {
		for address := range 4 {
			for range 5 {
				seen[i] = append(seen[i], guess(t, s, fmt.Sprintf("192.0.%d.%d", i, address), name, "wrong"))
			}
		}
	}
	if !slices.Equal(seen[0], seen[1]) {
		t.Errorf("the answers reveal which name exists:\n%v\n%v", seen[0], seen[1])
	}
	passed := func(from, to int) (n int) {
		for _, status := range seen[0][from:to] {
			if status == 401 {
				n++
			} else if status != -429 {
				t.Errorf("status %d", status)
			}
		}
		return n
	}
	// Five for all addresses together, then three for each address.
	if a, b := passed(0, 5), passed(5, 20); a != 5 || b != 9 {
		t.Errorf("%d and %d guesses passed: %v", a, b, seen[0])
	}
	if status := guess(t, s, "198.51.100.7", "Mina", phrase); status != 200 {
		t.Errorf("the member: %d", status)
	}
	if status := guess(t, s, "198.51.100.8", "another", "wrong"); status != 401 {
		t.Errorf("another name: %d", status)
	}
}

func TestSignupsOfOneNameAreLimited(t *testing.T) {
	s := behindProxy(t, "SIGNUP_RATE_PER_MINUTE", "4")
	var statuses []int
	for i := range 8 {
		status, _, _, _ := call(t, "POST", s.public+"/v1/members", fmt.Sprintf(`{"username":"mina","password":%q}`,
			phrase), "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i/4))
		statuses = append(statuses, status)
	}
	if want := []int{201, 409, 409, 409, 409, 409, 409, 429}; !slices.Equal(statuses, want) {
		t.Errorf("%v, want %v", statuses, want)
	}
}

// following is a stream of events, or the answer instead of one.
type following struct {
	status int
	header http.Header
	body   io.Reader
	leave  context.CancelFunc
}

// follow opens a stream that ends with the test.
func follow(t *testing.T, s *svc, path string, headers ...string) following {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", s.public+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return following{resp.StatusCode, resp.Header, resp.Body, cancel}
}

func eventsPath(body map[string]any) string { return body["links"].(map[string]any)["events"].(string) }

func TestEventsOfASignup(t *testing.T) {
	broker := testenv.NATS(t)
	answer := make(chan struct{})
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		<-answer
		return contract.StorageProvisioned, nil
	})
	s := start(t, environment(t, storetest.URL(t), broker.URL))
	body := signUp(t, s, "mina")
	stream := follow(t, s, eventsPath(body))
	if h := stream.header; stream.status != 200 || h.Get("Content-Type") != "text/event-stream" ||
		h.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", stream.status, h)
	}
	var got []string
	lines := bufio.NewScanner(stream.body)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		got = append(got, lines.Text())
		if strings.Contains(lines.Text(), `"state":"provisioning"`) {
			close(answer)
		}
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
	want := []string{"retry: ", "event: state", "id: 1", `data: {"signup_id":"` + body["signup_id"].(string),
		"event: state", "id: 2", "data: {"}
	if !slices.EqualFunc(got, want, strings.HasPrefix) || !strings.Contains(got[6], `"state":"ready"`) {
		t.Errorf("%q", got)
	}
	for id, want := range map[string]int{"2": 204, "1": 200} {
		if got := follow(t, s, eventsPath(body), "Last-Event-ID", id).status; got != want {
			t.Errorf("Last-Event-ID %s: %d, want %d", id, got, want)
		}
	}
	if status, _, answer, _ := call(t, "GET", s.public+"/v1/signups/sgn_"+strings.Repeat("0", 40)+"/events",
		""); status != 404 || answer["code"] != "not_found" {
		t.Errorf("no such signup: %d %v", status, answer)
	}
}

func TestStreamsAreCapped(t *testing.T) {
	s := behindProxy(t, "MAX_STREAMS", "4")
	path := eventsPath(signUp(t, s, "mina"))
	address := func(n int) string { return fmt.Sprintf("192.0.%d.1", n) }
	var leave context.CancelFunc
	for i, c := range []struct {
		address int
		want    int
		code    string
	}{{1, 200, ""}, {1, 429, "rate_limited"}, {2, 200, ""}, {3, 200, ""}, {4, 200, ""}, {5, 503, "busy"},
		{1, 503, "busy"}} {
		if c.want != 200 {
			status, header, body, _ := call(t, "GET", s.public+path, "", "X-Forwarded-For", address(c.address))
			if status != c.want || body["code"] != c.code || header.Get("Retry-After") == "" {
				t.Errorf("%d: %d %v", i, status, body)
			}
			continue
		}
		stream := follow(t, s, path, "X-Forwarded-For", address(c.address))
		if stream.status != 200 {
			t.Errorf("%d: %d", i, stream.status)
		}
		leave = stream.leave
	}
	leave()
	testenv.Eventually(t, 20*time.Second, "a place", func() bool {
		return follow(t, s, path, "X-Forwarded-For", address(5)).status == 200
	})
	if err := s.stop(); err != nil { // with open streams
		t.Error(err)
	}
}

// A client that holds half of the streams, from many addresses of one network, gets no more, and loses some to
// newcomers.
func TestStreamsAreSharedByNetworks(t *testing.T) {
	s := behindProxy(t, "MAX_STREAMS", "8")
	path := eventsPath(signUp(t, s, "mina"))
	var first following
	for i := range 4 {
		stream := follow(t, s, path, "X-Forwarded-For", fmt.Sprintf("2001:db8:0:%d::1", i))
		if stream.status != 200 {
			t.Fatalf("stream %d: %d", i, stream.status)
		}
		if i == 0 {
			first = stream
		}
	}
	if status := follow(t, s, path, "X-Forwarded-For", "2001:db8:0:4::1").status; status != 429 {
		t.Errorf("half of all streams, and one more: %d", status)
	}
	for i := range 5 {
		if status := follow(t, s, path, "X-Forwarded-For", fmt.Sprintf("192.0.%d.1", i)).status; status != 200 {
			t.Errorf("newcomer %d: %d", i, status)
		}
	}
	if _, err := io.Copy(io.Discard, first.body); err != nil { // it ends like any stream: the browser reconnects
		t.Errorf("the oldest stream of the network that has most: %v", err)
	}
}
