package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/api"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	member = "01999e5c-0000-7000-8000-00000000000a"
	saga   = "01999e5c-0000-7000-8000-00000000000b"
)

type fixture struct {
	t       *testing.T
	pool    *pgxpool.Pool
	store   *store.Store
	inbox   *provision.Handler
	handler http.Handler
}

const secret = "a-token-of-these-tests-0123456789"

func open(t *testing.T, faults bool) *fixture {
	t.Helper()
	tokens, err := service.OperatorTokens("service", secret)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	url := testenv.Database(t, "storage", func(ctx context.Context, url string) error {
		return service.Migrate(ctx, url, log, store.Migrations...)
	})
	pool, err := service.OpenPool(t.Context(), service.NewSecret(url), service.Common{}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	st := store.New(pool, nil)
	h := &provision.Handler{Inbox: st, Wake: func() {}, Log: log}
	registry := prometheus.NewRegistry()
	api.NewMetrics(registry, st)
	a := &api.API{
		Store: st, Tokens: tokens, Metrics: registry, Log: log,
		Health:  service.NewHealth(map[string]func(context.Context) error{"postgres": pool.Ping}),
		Timeout: 10 * time.Second, Faults: faults, Requeue: h.Requeue,
	}
	return &fixture{t: t, pool: pool, store: st, inbox: h, handler: a.Handler()}
}

func (f *fixture) call(method, path, token, body string) (status int, answer string) {
	f.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	if w.Code == http.StatusServiceUnavailable && path != "/readyz" && w.Header().Get("Retry-After") == "" {
		f.t.Errorf("%s: 503 without Retry-After", path)
	}
	if w.Code == http.StatusMethodNotAllowed && w.Header().Get("Allow") != "GET, HEAD, OPTIONS" {
		f.t.Errorf("%s: Allow has %q", path, w.Header().Get("Allow"))
	}
	if w.Code >= 400 && path != "/readyz" && w.Header().Get("Content-Type") != "application/problem+json" {
		f.t.Errorf("%s: content type %q", path, w.Header().Get("Content-Type"))
	}
	return w.Code, w.Body.String()
}

func TestRoutes(t *testing.T) {
	f := open(t, true)
	if err := f.store.Apply(t.Context(), []provision.Command{{MemberID: member, SagaID: saga, Generation: 1,
		Desired: provision.Present, QuotaBytes: 5}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, token, body string
		status                    int
		contains                  string
	}{
		{"GET", "/livez", "", "", 200, "ok"},
		{"GET", "/readyz", "", "", 200, "ready"},
		{"GET", "/metrics", "", "", 200, "storage_pending 1"},
		{"GET", "/metrics", "", "", 200, `storage_provider_gate{state="closed"} 1`},
		{"GET", "/metrics", "", "", 200, `storage_provider_gate{state="half-open"} 0`},
		{"GET", "/v1/storages/" + member, "", "", 401, "unauthorized"},
		{"GET", "/v1/storages/" + member, "wrong", "", 401, "unauthorized"},
		{"GET", "/v1/storages/" + member, secret, "", 200, `"status":"pending"`},
		{"GET", "/v1/storages/" + saga, secret, "", 404, "not_found"},
		{"GET", "/v1/storages/x", secret, "", 404, "not_found"},
		{"DELETE", "/v1/storages/" + member, secret, "", 405, "method_not_allowed"},
		{"GET", "/nowhere", "", "", 404, "not_found"},
		{"GET", "/v1/faults", "", "", 401, "unauthorized"},
		{"GET", "/v1/faults", secret, "", 200, `{"mode":"none","probability":0,"latency_ms":0}`},
		{"PUT", "/v1/faults", secret, `{"mode":"slow","probability":0.5,"latency_ms":20}`, 200, `"slow"`},
		{"GET", "/v1/faults", secret, "", 200, `{"mode":"slow","probability":0.5,"latency_ms":20}`},
		{"PUT", "/v1/faults", secret, `{"mode":"throttle","latency_ms":500}`, 200,
			`{"mode":"throttle","probability":1,"latency_ms":500}`},
		{"PUT", "/v1/faults", secret, `{"mode":"outage"}`, 200, `{"mode":"outage","probability":1,"latency_ms":0}`},
		{"PUT", "/v1/faults", secret, `{"mode":"explode","probability":2,"latency_ms":-1}`, 422, "/latency_ms"},
		{"PUT", "/v1/faults", secret, `{"mode":"none","extra":1}`, 400, "invalid_json"},
		{"PUT", "/v1/faults", "", `{"mode":"none"}`, 401, "unauthorized"},
	} {
		status, answer := f.call(c.method, c.path, c.token, c.body)
		if status != c.status || !strings.Contains(answer, c.contains) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, answer)
		}
	}
	var s map[string]any
	_, answer := f.call("GET", "/v1/storages/"+member, secret, "")
	if err := json.Unmarshal([]byte(answer), &s); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"member_id", "saga_id", "generation", "desired", "status", "quota_bytes", "attempts",
		"outage_attempts", "next_attempt_at", "version", "created_at", "updated_at"} {
		if s[field] == nil {
			t.Errorf("no %s in %s", field, answer)
		}
	}
}

func TestFaultsAreOffUnlessAskedFor(t *testing.T) {
	f := open(t, false)
	for _, method := range []string{"GET", "PUT"} {
		if status, answer := f.call(method, "/v1/faults", secret, ""); status != 404 {
			t.Errorf("%s: %d %s", method, status, answer)
		}
	}
}

func TestWithoutADatabase(t *testing.T) {
	f := open(t, true)
	f.pool.Close()
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503, "/v1/storages/" + member: 503,
		"/v1/faults": 503, "/metrics": 200} {
		if status, answer := f.call("GET", path, secret, ""); status != want {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}

// Every storage is listed once, page by page, in the same form as a single one.
func TestListOfStorages(t *testing.T) {
	f := open(t, false)
	const members = 7
	commands := make([]provision.Command, members)
	for i := range commands {
		commands[i] = provision.Command{MemberID: fmt.Sprintf("01999e5c-0000-7000-8000-%012x", members-i), SagaID: saga,
			Generation: 3, Desired: provision.Present}
	}
	if err := f.store.Apply(t.Context(), commands, nil); err != nil {
		t.Fatal(err)
	}
	for limit, pages := range map[int]int{1: 7, 3: 3, 7: 1, 1000: 1} {
		var got []string
		cursor, n := "", 0
		for (n == 0 || cursor != "") && n <= members {
			path := fmt.Sprintf("/v1/storages?limit=%d", limit)
			if n++; cursor != "" {
				path += "&cursor=" + cursor
			}
			status, answer := f.call("GET", path, secret, "")
			var page struct {
				Items      []json.RawMessage
				NextCursor string `json:"next_cursor"`
			}
			if err := json.Unmarshal([]byte(answer), &page); status != 200 || err != nil {
				t.Fatal(status, answer, err)
			}
			for _, item := range page.Items {
				var s struct {
					MemberID string `json:"member_id"`
				}
				if err := json.Unmarshal(item, &s); err != nil {
					t.Fatal(err)
				}
				_, single := f.call("GET", "/v1/storages/"+s.MemberID, secret, "")
				if strings.TrimSpace(single) != string(item) {
					t.Errorf("listed %s, alone %s", item, single)
				}
				got = append(got, s.MemberID)
			}
			cursor = page.NextCursor
		}
		if n != pages || len(got) != members || !slices.IsSorted(got) || len(slices.Compact(got)) != members {
			t.Errorf("limit %d: %d pages, %v", limit, n, got)
		}
	}
	for query, contains := range map[string]string{
		"limit=0": "/limit", "limit=1001": "/limit", "limit=x": "/limit", "cursor=x": "/cursor", "page=2": "/page",
		"limit=1;x": "cannot be read", "cursor=%zz": "cannot be read", "limit=1&limit=2": "more than once",
	} {
		status, answer := f.call("GET", "/v1/storages?"+query, secret, "")
		if status != 422 || !strings.Contains(answer, contains) {
			t.Errorf("%s: %d %s", query, status, answer)
		}
	}
	if status, answer := f.call("GET", "/v1/storages", "", ""); status != 401 {
		t.Errorf("without a token: %d %s", status, answer)
	}
}

// deadLetters lists all ids, in pages of two.
func (f *fixture) deadLetters() (ids []string, items []map[string]any) {
	f.t.Helper()
	cursor := ""
	for range 100 {
		status, answer := f.call("GET", "/v1/dead-letters?limit=2&cursor="+cursor, secret, "")
		var page struct {
			Items      []map[string]any
			NextCursor string `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(answer), &page); status != 200 || err != nil {
			f.t.Fatal(status, answer, err)
		}
		for _, item := range page.Items {
			ids, items = append(ids, item["id"].(string)), append(items, item)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	return ids, items
}

func command(generation, body string) service.Message {
	return service.Message{Subject: "signup.essential.storage.provision", Body: []byte(body),
		Headers: map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"e1"}, "ce-source": {"/member-svc"}, "ce-type": {"storage.provision"},
			"ce-subject": {member}, "ce-sagaid": {saga}, "ce-generation": {generation},
		}}
}

func TestDeadLetters(t *testing.T) {
	f := open(t, false)
	for _, body := range []string{"{", "\xff\x00", "{", strings.Repeat("x", 5000)} {
		if err := f.inbox.Handle(t.Context(), []service.Message{command("1", body)}); err != nil {
			t.Fatal(err)
		}
	}
	ids, items := f.deadLetters()
	if len(ids) != 3 {
		t.Fatalf("%d dead letters, want three: %v", len(ids), ids)
	}
	if newest, oldest := items[0], items[2]; newest["body_bytes"] != 5000.0 || len(newest["body"].(string)) != 1024 ||
		newest["generation"] != 1.0 ||
		oldest["seen"] != 2.0 || oldest["saga_id"] != saga || oldest["reason"] == "" ||
		oldest["headers"].(map[string]any)["ce-id"] == nil {
		t.Errorf("newest %v, oldest %v", newest, oldest)
	}
	for _, c := range []struct {
		method, path, token string
		status              int
		contains            string
	}{
		{"POST", "/v1/dead-letters/" + ids[0] + "/requeue", "", 401, "unauthorized"},
		{"POST", "/v1/dead-letters/" + ids[0] + "/requeue", secret, 409, "still_poison"},
		{"POST", "/v1/dead-letters/" + strings.Repeat("0", 64) + "/requeue", secret, 404, "not_found"},
		{"POST", "/v1/dead-letters/x%00/requeue", secret, 404, "not_found"},
		{"GET", "/v1/dead-letters?cursor=x", secret, 422, "/cursor"},
		{"GET", "/v1/dead-letters?limit=0", secret, 422, "/limit"},
		{"GET", "/v1/dead-letters", "", 401, "unauthorized"},
	} {
		if status, answer := f.call(c.method, c.path, c.token, ""); status != c.status ||
			!strings.Contains(answer, c.contains) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, answer)
		}
	}
	if again, _ := f.deadLetters(); !slices.Equal(again, ids) {
		t.Errorf("a message that is still poison is gone: %v", again)
	}
}

// A newer program can parse a dead letter of an older one. Two requests requeue it at once.
func TestRequeue(t *testing.T) {
	f := open(t, false)
	if err := f.inbox.Handle(t.Context(), []service.Message{command("1", "{")}); err != nil {
		t.Fatal(err)
	}
	_, err := f.pool.Exec(t.Context(), "UPDATE dead_letter SET body = $1",
		[]byte(`{"member_id":"`+member+`","saga_id":"`+saga+`","generation":1,"quota_bytes":7}`))
	if err != nil {
		t.Fatal(err)
	}
	ids, _ := f.deadLetters()
	path := "/v1/dead-letters/" + ids[0] + "/requeue"

	// The transaction fails in the middle: nothing has changed.
	if _, err := f.pool.Exec(t.Context(),
		"CREATE RULE kept AS ON DELETE TO dead_letter DO INSTEAD SELECT 1/0"); err != nil {
		t.Fatal(err)
	}
	if status, answer := f.call("POST", path, secret, ""); status == 204 {
		t.Fatalf("%d %s", status, answer)
	}
	if _, err := f.store.Get(t.Context(), member); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the command was applied, the dead letter kept: %v", err)
	}
	if _, err := f.pool.Exec(t.Context(), "DROP RULE kept ON dead_letter"); err != nil {
		t.Fatal(err)
	}

	// All requests have read the letter before the first of them is done.
	blocker, err := f.pool.Begin(t.Context())
	if err == nil {
		_, err = blocker.Exec(t.Context(), "LOCK TABLE storage")
	}
	if err != nil {
		t.Fatal(err)
	}
	statuses := make(chan int, 4)
	for range 4 {
		go func() {
			r := httptest.NewRequest("POST", path, nil)
			r.Header.Set("Authorization", "Bearer "+secret)
			w := httptest.NewRecorder()
			f.handler.ServeHTTP(w, r)
			statuses <- w.Code
		}()
	}
	testenv.Eventually(t, 8*time.Second, "four requests at the storage", func() (all bool) {
		err := f.pool.QueryRow(t.Context(),
			"SELECT count(*) = 4 FROM pg_locks WHERE NOT granted AND relation = 'storage'::regclass AND database = "+
				"(SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&all)
		return err == nil && all
	})
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := []int{<-statuses, <-statuses, <-statuses, <-statuses}
	slices.Sort(got)
	if !slices.Equal(got, []int{204, 404, 404, 404}) {
		t.Errorf("four clicks: %v", got)
	}
	s, err := f.store.Get(t.Context(), member)
	if err != nil || s.Status != provision.Pending || s.Generation != 1 || s.QuotaBytes != 7 || s.Version != 1 {
		t.Errorf("storage %+v, %v", s, err)
	}
	if ids, _ := f.deadLetters(); len(ids) != 0 {
		t.Errorf("dead letters %v", ids)
	}
}
