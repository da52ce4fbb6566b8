package service_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/signup-saga/signup-saga/service"
)

func TestTokenFiles(t *testing.T) {
	ann, next := "ann:operator:"+hash("the token of ann"), "ann:operator:"+hash("the next token of ann")
	for text, ok := range map[string]bool{
		ann:                                true,
		"# comment\n\n " + ann + " \r\n":   true,
		ann + ":2999-01-31":                true,
		ann + ":2999-01-31T10:00:00+01:00": true,
		ann + "\nbob:viewer:" + hash("the token of bob"): true,
		ann + ":2999-01-31\n" + next:                     true, // while a token is replaced
		ann + "\n" + next + ":2999-01-31":                true,
		"":                                               false,
		"# nobody":                                       false,
		"a:operator:00":                                  false,
		"a:king:" + hash("the token of a king"):          false,
		":viewer:" + hash("the token of nobody"):         false,
		"a:viewer":                                       false,
		ann + ":":                                        false,
		ann + ":tomorrow":                                false,
		ann + ":31.01.2999":                              false,
		ann + "\n" + next:                                false, // the audit could not tell them apart
		ann + ":2999-01-31\n" + strings.Replace(next, "operator", "viewer", 1): false,
		ann + "\n" + ann: false,
		ann + "\nbob" + strings.TrimPrefix(ann, "ann"): false,
		"a:viewer:" + hash(""):                         false,
		"a:viewer:" + hash("a"):                        false,
		"a:viewer:" + hash("~~"):                       false,
	} {
		_, err := service.ParseTokens(text)
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "ann") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

var nothing = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

func TestNewTokens(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		secret, line, err := service.NewToken("ann", service.RoleViewer, time.Time{})
		if err != nil || len(secret) != 41 || !strings.HasPrefix(secret, "sgadmin_") || seen[secret] {
			t.Fatalf("%q %q %v", secret, line, err)
		}
		seen[secret] = true
		tokens, err := service.ParseTokens(line)
		if err != nil {
			t.Fatal(err)
		}
		if got := status(tokens.Require(service.RoleViewer)(nothing), secret); got != 200 {
			t.Errorf("%d with a new token", got)
		}
	}
	for _, c := range [][2]string{
		{"", "viewer"}, {"a:b", "viewer"}, {"a\nb", "viewer"}, {strings.Repeat("a", 65), "viewer"}, {"ann", "king"},
	} {
		if _, _, err := service.NewToken(c[0], c[1], time.Time{}); err == nil {
			t.Errorf("%q accepted", c)
		}
	}
}

// watched are tokens whose misuse is logged and counted.
type watched struct {
	http.Handler
	registry *prometheus.Registry
	log      bytes.Buffer
}

func watch(t *testing.T, lines string) *watched {
	t.Helper()
	tokens, err := service.ParseTokens(lines)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{registry: prometheus.NewRegistry()}
	tokens.Watch("admin", w.registry, slog.New(slog.NewTextHandler(&w.log, nil)))
	w.Handler = tokens.Require(service.RoleViewer)(nothing)
	return w
}

// from returns the answer to a request from an address.
func (w *watched) from(address, token string) *httptest.ResponseRecorder {
	r, answer := httptest.NewRequest(http.MethodGet, "/", http.NoBody), httptest.NewRecorder()
	r.RemoteAddr = address + ":1234"
	r.Header.Set("Authorization", "Bearer "+token)
	w.ServeHTTP(answer, r)
	return answer
}

// metric returns the value of a metric; its name includes the labels.
func (w *watched) metric(t *testing.T, name string) float64 {
	t.Helper()
	answer := httptest.NewRecorder()
	scrape := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}).ServeHTTP(answer, scrape)
	for line := range strings.Lines(answer.Body.String()) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// refused returns how many tokens were refused for a reason.
func (w *watched) refused(t *testing.T, reason string) float64 {
	t.Helper()
	return w.metric(t, `admin_tokens_refused_total{reason="`+reason+`"}`)
}

func TestWrongTokensAreLimited(t *testing.T) {
	w := watch(t, tokenLine("ann", service.RoleViewer, annsToken))
	const tries = 600
	answers := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range tries { // at once
		wg.Go(func() {
			answer := w.from("192.0.2.1", "some wrong token "+strconv.Itoa(i))
			mu.Lock()
			defer mu.Unlock()
			answers[answer.Code]++
			if answer.Code == 429 && answer.Header().Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		})
	}
	wg.Wait()
	if answers[401] < 10 || answers[401] > 12 || answers[401]+answers[429] != tries {
		t.Errorf("answers %v: want 10 of 401 and the rest 429", answers)
	}
	if got := w.from("192.0.2.1", annsToken); got.Code != 429 {
		t.Errorf("the right token among the wrong ones: %d", got.Code)
	}
	if got := w.from("192.0.2.2", annsToken); got.Code != 200 {
		t.Errorf("somebody else: %d", got.Code)
	}
	unknown, limited := w.refused(t, "unknown"), w.refused(t, "limited")
	if int(unknown) != answers[401] || int(limited) != answers[429]+1 {
		t.Errorf("counted %v unknown and %v limited", unknown, limited)
	}
	log := w.log.String()
	if n := strings.Count(log, "admin token refused"); n != answers[401] || !strings.Contains(log, "192.0.2.1") ||
		!strings.Contains(log, "waits=true") || strings.Contains(log, "some wrong token") {
		t.Errorf("%d lines in the log: %s", n, log)
	}
}

// Many addresses that guess together use up the common limit, and still keep nobody out.
func TestGuessersDoNotKeepOperatorsOut(t *testing.T) {
	w := watch(t, tokenLine("ann", service.RoleViewer, annsToken))
	answers := map[int]int{}
	for i := range 200 {
		for range 10 {
			answers[w.from("198.51.100."+strconv.Itoa(i), "some wrong token").Code]++
		}
	}
	if most := 60 + 3*200 + 10; answers[401] > most {
		t.Errorf("%v, want at most %d guesses", answers, most)
	}
	if got := w.from("203.0.113.1", annsToken); got.Code != 200 {
		t.Errorf("an operator elsewhere: %d", got.Code)
	}
}

func TestTokensExpire(t *testing.T) {
	line := func(name, secret, expiry string) string {
		return strings.TrimSuffix(tokenLine(name, service.RoleViewer, secret), "\n") + expiry + "\n"
	}
	in := func(d time.Duration) string { return ":" + time.Now().Add(d).UTC().Format(time.RFC3339) }
	w := watch(t, line("ann", annsToken, in(-time.Second))+line("bob", bobsToken, in(time.Hour))+
		line("eve", "the token of eve", ""))
	for token, want := range map[string]int{annsToken: 401, bobsToken: 200, "the token of eve": 200} {
		if got := w.from("192.0.2.1", token); got.Code != want {
			t.Errorf("%s: %d, want %d", token, got.Code, want)
		}
	}
	if n := w.refused(t, "expired"); n != 1 {
		t.Errorf("%v counted as expired", n)
	}
	first, second, third := ":2999-01-01", ":2999-01-02", ":2999-01-03"
	ann, bob := func(expiry string) string { return line("ann", annsToken, expiry) }, line("bob", bobsToken, second)
	next := func(expiry string) string { return line("ann", "her next token", expiry) }
	for lines, want := range map[string]string{
		ann(""):                        "",
		ann(third) + bob:               second,
		ann(first) + next("") + bob:    second,
		ann(first) + next(third):       third,
		ann("") + next(first) + bob:    second,
		ann(first) + next(third) + bob: second,
	} {
		expected := 0.0
		if at, err := time.Parse(":"+time.DateOnly, want); err == nil {
			expected = float64(at.Unix())
		}
		if got := watch(t, lines).metric(t, "admin_token_expiry_timestamp_seconds"); got != expected {
			t.Errorf("%s: %v, want %v", lines, got, expected)
		}
	}
}

func TestSessionsExpireWithTheirToken(t *testing.T) {
	at := time.Now().Add(2 * time.Second)
	line := strings.TrimSpace(tokenLine("ann", service.RoleViewer, annsToken))
	tokens, err := service.ParseTokens(line + ":" + at.UTC().Format(time.RFC3339Nano))
	if err != nil {
		t.Fatal(err)
	}
	gone := &ended{hashes: map[string]time.Time{}}
	sessions := &service.Sessions{Tokens: tokens, Secret: []byte("s"), Lifetime: time.Hour, Ended: gone}
	session, _, ends, refusal := sessions.Begin(httptest.NewRequest(http.MethodPost, "/", http.NoBody), annsToken)
	if refusal != nil || ends.After(at) {
		t.Fatalf("it ends %s, the token %s; %v", ends, at, refusal)
	}
	deadline := time.After(10 * time.Second)
	for {
		if status, _ := as(sessions, session, service.RoleViewer); status == 401 {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the session outlives its token")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestReasonsOfRefusal(t *testing.T) {
	secret, line, err := service.NewToken("ann", service.RoleViewer, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, line+"\n"+tokenLine("bob", service.RoleViewer, "short token"))
	for token, reason := range map[string]string{
		"short token": "short", secret[:40]: "typo", strings.Replace(secret, "sgadmin_", "sgadmin_a", 1): "typo",
		strings.ToUpper(secret): "unknown", "some other token": "unknown",
	} {
		before := w.refused(t, reason)
		if got := w.from("192.0.2.1", token); got.Code != 401 || w.refused(t, reason) != before+1 {
			t.Errorf("%q: %d, not counted as %s", token, got.Code, reason)
		}
	}
}
