package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/outbox"
)

func TestMain(m *testing.M) {
	useNameServers()
	testenv.Main(m)
}

const phrase = "correct horse battery"

// svc is member-svc as main starts it, on free ports.
type svc struct {
	public, admin string
	log           *logBuffer
	stop          func() error
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func environment(t *testing.T, databaseURL, natsURL string) map[string]string {
	t.Helper()
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, fmt.Appendf(nil, "ann:operator:%s\nvic:viewer:%s\n", hash("operator-token"),
		hash("viewer-token")), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"MEMBER_DATABASE_URL": databaseURL, "NATS_URL": natsURL, "MEMBER_HTTP_ADDR": "127.0.0.1:0",
		"MEMBER_ADMIN_ADDR": "127.0.0.1:0",
		"ADMIN_TOKENS_FILE": tokens, "IDEMPOTENCY_SECRET": strings.Repeat("s", 32), "SMTP_ADDR": "127.0.0.1:1",
		"DRAIN_DELAY":     "0s",
		"HASH_MEMORY_KIB": "8", "HASH_TIME": "1", "SIGNUP_RATE_PER_MINUTE": "100000", "LOG_FORMAT": "json",
	}
}

var listening = regexp.MustCompile(`"msg":"listening","name":"(\w+)","addr":"([^"]+)"`)

func start(t *testing.T, env map[string]string) *svc {
	t.Helper()
	s := &svc{log: &logBuffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"serve"}, func(k string) string { return env[k] }, s.log)
	}()
	s.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	testenv.Eventually(t, 20*time.Second, "both listeners", func() bool {
		found := listening.FindAllStringSubmatch(s.log.String(), -1)
		for _, m := range found {
			if m[1] == "public" {
				s.public = "http://" + m[2]
			} else {
				s.admin = "http://" + m[2]
			}
		}
		return s.public != "" && s.admin != ""
	})
	return s
}

// call sends a request and returns status, headers and decoded body.
func call(t *testing.T, method, url, body string, headers ...string) (int, http.Header, map[string]any, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	_ = json.Unmarshal(raw, &decoded) // metrics are not JSON
	return resp.StatusCode, resp.Header, decoded, string(raw)
}

func signUp(t *testing.T, s *svc, name string, headers ...string) map[string]any {
	t.Helper()
	status, _, body, raw := call(t, "POST", s.public+"/v1/members",
		fmt.Sprintf(`{"username":%q,"password":%q,"email":"m@example.org"}`, name, phrase), headers...)
	if status != http.StatusCreated {
		t.Fatalf("signup: %d %s", status, raw)
	}
	return body
}

func (s *svc) self(body map[string]any) string {
	return s.public + body["links"].(map[string]any)["self"].(string)
}

func (s *svc) awaitState(t *testing.T, body map[string]any, want string) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, want, func() bool {
		_, _, got, _ := call(t, "GET", s.self(body), "")
		return got["state"] == want
	})
}

// fakeStorage answers commands over NATS as the Storage service would: removals at once, the others as answer
// says.
func fakeStorage(
	t *testing.T, natsURL string, answer func(contract.StorageCommand) (contract.Type, *contract.StorageError),
) {
	t.Helper()
	nc, err := nats.Connect(natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range contract.Lanes() {
		cfg := outbox.StreamConfig(contract.Stream(contract.Storage, l), contract.Subjects(contract.Storage, l), 1)
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	reply := func(m *nats.Msg) {
		e, err := contract.Parse(m.Header, m.Data)
		var command contract.StorageCommand
		if err == nil {
			err = e.DataTo(&command)
		}
		if err != nil {
			t.Errorf("command: %v", err)
			return
		}
		typ, why := contract.StorageDeprovisioned, (*contract.StorageError)(nil)
		if e.Type == contract.StorageProvision {
			typ, why = answer(command)
		}
		data, err := json.Marshal(contract.StorageReply{MemberID: command.MemberID, SagaID: command.SagaID,
			Generation: command.Generation, Attempt: 1, Error: why})
		if err != nil {
			t.Error(err)
			return
		}
		out := nats.NewMsg(contract.SubjectPrefix(contract.Essential) + string(typ))
		out.Data = data
		out.Header = nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {"reply-to-" + e.ID}, "ce-source": {"/storage-svc"},
			"ce-type":    {string(typ)},
			"ce-subject": {command.MemberID}, "ce-sagaid": {command.SagaID},
		}
		if err := nc.PublishMsg(out); err != nil {
			t.Error(err)
		}
	}
	for _, command := range []contract.Type{contract.StorageProvision, contract.StorageDeprovision} {
		if _, err := nc.Subscribe(contract.SubjectPrefix(contract.Essential)+string(command), reply); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestSignupToReady(t *testing.T) {
	broker := testenv.NATS(t)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		return contract.StorageProvisioned, nil
	})
	s := start(t, environment(t, storetest.URL(t), broker.URL))
	body := signUp(t, s, "mina")
	if body["state"] != "provisioning" || body["plan"] != "free" ||
		body["storage"].(map[string]any)["quota_bytes"] != float64(5<<30) {
		t.Errorf("%v", body)
	}
	s.awaitState(t, body, "ready")
	status, header, got, raw := call(t, "GET", s.self(body), "")
	if status != 200 || header.Get("ETag") != `"2"` || header.Get("Retry-After") != "" ||
		header.Get("Cache-Control") != "no-store" || header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("%d %v %s", status, header, raw)
	}
	if got["created_at"] != body["created_at"] || got["updated_at"] == body["updated_at"] {
		t.Errorf("times: %v then %v", body, got)
	}
	if log := s.log.String(); strings.Contains(log, body["signup_id"].(string)) || strings.Contains(log, "mina") {
		t.Errorf("the log contains a capability or a name:\n%s", log)
	}
	// Restart: nothing was kept in memory only.
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.log.String(), `"msg":"stopped"`) {
		t.Errorf("no orderly stop:\n%s", s.log.String())
	}
}

func TestSignupNeedsPostgresOnly(t *testing.T) {
	broker := testenv.NATS(t)
	broker.Kill()
	s := start(t, environment(t, storetest.URL(t), broker.URL))
	status, header, first, raw := call(t, "POST", s.public+"/v1/members", `{"username":"mina","password":"`+phrase+
		`"}`, "Idempotency-Key", `"k-1"`)
	if status != 201 || header.Get("Location") != "/v1/signups/"+first["signup_id"].(string) ||
		header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("%d %v %s", status, header, raw)
	}
	status, header, _, again := call(t, "POST", s.public+"/v1/members", ` {"password":"`+phrase+
		`","username":"mina","plan":"free"}`, "Idempotency-Key", "k-1")
	if status != 201 || header.Get("Idempotent-Replayed") != "true" || again != raw ||
		header.Get("Location") != "/v1/signups/"+first["signup_id"].(string) {
		t.Errorf("replay: %d %v\n%s%s", status, header, raw, again)
	}
	if _, header, got, _ := call(t, "GET", s.self(first), ""); header.Get("Retry-After") == "" ||
		got["state"] != "provisioning" || got["delayed"] != false {
		t.Errorf("%v %v", header, got)
	}
	if status, _, _, raw := call(t, "GET", s.admin+"/readyz?verbose", ""); status != 200 ||
		!strings.Contains(raw, "postgres") {
		t.Errorf("readyz %d %s", status, raw)
	}
	if status, _, _, _ := call(t, "GET", s.admin+"/livez", ""); status != 200 {
		t.Errorf("livez %d", status)
	}
	_, _, _, metrics := call(t, "GET", s.admin+"/metrics", "")
	for _, want := range []string{`member_signups_total{outcome="created"} 1`,
		`member_signups_total{outcome="replayed"} 1`, "member_signup_seconds_count 1", "member_hash_waiting 0",
		`outbox_lag_events{lane="essential"} 1`, `outbox_lag_events{lane="nonessential"} 1`,
		`outbox_leading{lane="essential"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	fakeStorageWhenBack := func() {
		broker.Start()
		fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
			return contract.StorageProvisioned, nil
		})
	}
	fakeStorageWhenBack()
	s.awaitState(t, first, "ready")
}

func TestProblems(t *testing.T) {
	env := environment(t, storetest.URL(t), "nats://127.0.0.1:1")
	env["SIGNUP_RATE_PER_MINUTE"] = "8"
	s := start(t, env)
	signUp(t, s, "mina", "Idempotency-Key", "k")
	good := `{"username":"nora","password":"` + phrase + `"}`
	for _, tc := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"taken", "POST", "/v1/members", `{"username":"MINA","password":"` + phrase + `"}`, nil, 409,
			"username_taken"},
		{"invalid", "POST", "/v1/members", `{"username":"x","password":"y","plan":"pro","email":"z"}`, nil, 422,
			"validation_failed"},
		{"reused", "POST", "/v1/members", good, []string{"Idempotency-Key", "k"}, 422, "idempotency_key_reused"},
		{"bad key", "POST", "/v1/members", good, []string{"Idempotency-Key", strings.Repeat("k", 256)}, 400,
			"invalid_idempotency_key"},
		{"unknown field", "POST", "/v1/members", `{"user":"x"}`, nil, 400, "invalid_json"},
		{"media type", "POST", "/v1/members", good, []string{"Content-Type", "text/plain"}, 415,
			"unsupported_media_type"},
		{"too large", "POST", "/v1/members", `{"username":"` + strings.Repeat("x", 9000) + `"}`, nil, 413,
			"body_too_large"},
		{"rate", "POST", "/v1/members", good, nil, 429, "rate_limited"},
		{"no signup", "GET", "/v1/signups/sgn_%00", "", nil, 404, "not_found"},
		{"no route", "GET", "/v1/other", "", nil, 404, "not_found"},
		{"method", "PUT", "/v1/members", good, nil, 405, "method_not_allowed"},
	} {
		status, header, body, raw := call(t, tc.method, s.public+tc.path, tc.body, tc.headers...)
		if status != tc.status || body["code"] != tc.code || header.Get("Content-Type") != "application/problem+json" ||
			body["type"] == nil || body["title"] == nil {
			t.Errorf("%s: %d %v %s", tc.name, status, header, raw)
		}
		if (status == 429 || status == 503) && header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", tc.name)
		}
		if allow := header.Values("Allow"); status == 405 && !slices.Equal(allow, []string{"POST, OPTIONS"}) {
			t.Errorf("%s: Allow has %q", tc.name, allow)
		}
		if strings.Contains(raw, phrase) {
			t.Errorf("%s: the answer repeats a value", tc.name)
		}
	}
}

func TestOperators(t *testing.T) {
	broker := testenv.NATS(t)
	var mu sync.Mutex
	var hold bool
	release := make(chan struct{})
	fakeStorage(t, broker.URL, func(c contract.StorageCommand) (contract.Type, *contract.StorageError) {
		if c.Generation == 1 {
			return contract.StorageRejected,
				&contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
		}
		mu.Lock()
		held := hold
		mu.Unlock()
		if held {
			<-release
		}
		return contract.StorageProvisioned, nil
	})
	s := start(t, environment(t, storetest.URL(t), broker.URL))
	body := signUp(t, s, "mina")
	s.awaitState(t, body, "needs_attention")
	operator, viewer := []string{"Authorization", "Bearer operator-token"},
		[]string{"Authorization", "Bearer viewer-token"}
	_, _, list, raw := call(t, "GET", s.admin+
		"/admin/v1/sagas?state=needs_attention&username=Mina&limit=1&created_after=2020-01-01T00:00:00Z", "", viewer...)
	if list["items"] == nil || len(list["items"].([]any)) != 1 || list["next_cursor"] != nil {
		t.Fatalf("list: %s", raw)
	}
	sagaURL := s.admin + "/admin/v1/sagas/" + list["items"].([]any)[0].(map[string]any)["saga_id"].(string)
	status, header, detail, raw := call(t, "GET", sagaURL, "", viewer...)
	if status != 200 || header.Get("ETag") != `"2"` || detail["step"] != "storage" ||
		detail["last_error"].(map[string]any)["fingerprint"] != "rejected:no-room" ||
		len(detail["timeline"].([]any)) != 2 {
		t.Errorf("detail: %d %s", status, raw)
	}
	reason := `{"reason":"room made"}`
	mu.Lock()
	hold = true
	mu.Unlock()
	for _, tc := range []struct {
		name, url, body string
		headers         []string
		status          int
		code            any
	}{
		{"no token", sagaURL, reason, nil, 401, "unauthorized"},
		{"viewer", sagaURL, reason, viewer, 403, "forbidden"},
		{"no reason", sagaURL, `{}`, operator, 422, "validation_failed"},
		{"zero byte", sagaURL, `{"reason":"a\u0000"}`, operator, 422, "validation_failed"},
		{"stale", sagaURL, reason, append([]string{"If-Match", `"1"`}, operator...), 412, "version_mismatch"},
		{"foreign tag", sagaURL, reason, append([]string{"If-Match", `"x"`}, operator...), 412, "version_mismatch"},
		{"unknown", s.admin + "/admin/v1/sagas/01999e5c-0000-7000-8000-00000000000b", reason, operator, 404,
			"not_found"},
		{"no uuid", s.admin + "/admin/v1/sagas/x", reason, operator, 404, "not_found"},
		{"retry", sagaURL, reason, append([]string{"If-Match", `"2"`}, operator...), 202, nil},
		{"again", sagaURL, reason, operator, 202, nil},
	} {
		status, _, body, raw := call(t, "POST", tc.url+"/retry", tc.body, tc.headers...)
		if status != tc.status || body["code"] != tc.code {
			t.Errorf("%s: %d %s", tc.name, status, raw)
		}
		if status == 202 && (body["generation"] != 2.0 || body["version"] != 3.0 || body["state"] != "provisioning") {
			t.Errorf("%s: %s", tc.name, raw)
		}
	}
	close(release)
	s.awaitState(t, body, "ready")
	if status, _, body, raw := call(t, "POST", sagaURL+"/retry", reason, operator...); status != 409 ||
		body["code"] != "not_retryable" {
		t.Errorf("retry when ready: %d %s", status, raw)
	}
	for _, query := range []string{"state=x", "limit=0", "limit=201", "cursor=x", "colour=blue", "delayed=maybe",
		"created_before=now"} {
		if status, _, _, raw := call(t, "GET", s.admin+"/admin/v1/sagas?"+query, "", viewer...); status != 422 {
			t.Errorf("%s: %d %s", query, status, raw)
		}
	}
	if status, _, _, _ := call(t, "GET", s.admin+"/admin/v1/sagas", ""); status != 401 {
		t.Errorf("list without a token: %d", status)
	}
}

// For every declared step, the contract's table agrees with what the engine assumes.
func TestStepsAreEssential(t *testing.T) {
	for _, st := range (StepConfig{}).steps() {
		for _, typ := range []contract.Type{st.Command, st.Compensation} {
			if r, ok := contract.RouteOf(typ); !ok || r.Lane != contract.Essential || r.Producer != contract.Member {
				t.Errorf("%s: %+v", typ, r)
			}
		}
		for _, reply := range []string{".provisioned", ".rejected", ".deprovisioned"} {
			if r, ok := contract.RouteOf(contract.Type(st.Name + reply)); !ok || r.Lane != contract.Essential {
				t.Errorf("%s%s: %+v", st.Name, reply, r)
			}
		}
	}
}

func TestSubcommands(t *testing.T) {
	url := testenv.Database(t, "empty", nil)
	env := map[string]string{"MEMBER_DATABASE_URL": url, "NATS_URL": "nats://127.0.0.1:1", "DRAIN_DELAY": "0s"}
	getenv := func(k string) string { return env[k] }
	for range 2 { // the second run has nothing to do
		if err := run(t.Context(), []string{"migrate"}, getenv, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	err := run(t.Context(), []string{"serve"}, getenv, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "ADMIN_TOKENS_FILE") ||
		!strings.Contains(err.Error(), "IDEMPOTENCY_SECRET") {
		t.Errorf("serve lists everything that is missing: %v", err)
	}
	bad := environment(t, url, "nats://127.0.0.1:1")
	for k, v := range map[string]string{
		"MAIL_FROM": "not an address", "MAIL_HELO": "not a name", "MAIL_TLS": "maybe",
		"SMTP_ADDR": "x", "SMTP_USERNAME": "alone", "SMTP_CERT_FILE": "alone",
		"IDEMPOTENCY_SECRET": "short", "PLANS_ALLOWED": "gold", "REDRIVE_PER_SECOND": "0", "PASSWORD_MIN": "0",
		"USERNAMES": "latin", "PASSWORD_PEPPERS": "id:short", "HASH_CONCURRENCY": "9", "HASH_MEMORY_KIB": "7169",
		"HASH_MEMORY_BUDGET_MIB": "63",
	} {
		bad[k] = v
	}
	err = run(t.Context(), []string{"serve"}, func(k string) string { return bad[k] }, io.Discard)
	for _, want := range []string{
		"MAIL_FROM: not an address as in", "MAIL_HELO: not a host name", "MAIL_TLS: must be one of",
		"SMTP_ADDR", "SMTP_USERNAME", "SMTP_CERT_FILE",
		"IDEMPOTENCY_SECRET", "PLANS_ALLOWED", "REDRIVE_PER_SECOND", "PASSWORD_MIN", "USERNAMES",
		"PASSWORD_PEPPERS: line 1", "HASH_MEMORY_BUDGET_MIB",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in: %v", want, err)
		}
	}
	s := start(t, environment(t, url, "nats://127.0.0.1:1"))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.admin, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	health := func(k string) string { return map[string]string{"MEMBER_ADMIN_ADDR": "0.0.0.0:" + port}[k] }
	if err := run(t.Context(), []string{"healthcheck"}, health, io.Discard); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
	if err := run(t.Context(), nil, getenv, io.Discard); err == nil {
		t.Error("no subcommand, no error")
	}
}
