package console_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/devstack/testenv/webtest"
	"github.com/signup-saga/signup-saga/member-svc/internal/api"
	"github.com/signup-saga/signup-saga/member-svc/internal/console"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const soon = 20 * time.Second

// site is a console on a real admin API and a real database.
type site struct {
	*httptest.Server
	pool    *pgxpool.Pool
	store   *store.Store
	metrics *api.Metrics
	watch   func() // makes wrong tokens be limited
}

func open(t *testing.T) *site {
	t.Helper()
	s := &site{pool: storetest.Open(t)}
	hash := func(secret string) string {
		sum := sha256.Sum256([]byte(secret))
		return hex.EncodeToString(sum[:])
	}
	file := filepath.Join(t.TempDir(), "tokens")
	lines := "ann:operator:" + hash("operator-token") + "\nvic:viewer:" + hash("viewer-token")
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := service.LoadTokens(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.metrics = api.NewMetrics(prometheus.NewRegistry(), func() int64 { return 0 })
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s.store = store.New(s.pool, storetest.Steps, storetest.Secret, func() {})
	handlers := &api.API{Store: s.store, Steps: storetest.Steps, Metrics: s.metrics, DatabaseTimeout: 10 * time.Second,
		Log: log}
	s.watch = func() { tokens.Watch("admin", prometheus.NewRegistry(), log) }
	pulse := console.NewPulse(s.store.Pulse)
	handler, err := console.New(console.Config{
		API: handlers.Admin(tokens, service.NewHealth(nil)), Pulse: pulse, DemoURL: "http://127.0.0.1:1/faults",
		Log:      log,
		Sessions: &service.Sessions{Tokens: tokens, Secret: storetest.Secret, Lifetime: time.Hour, Ended: s.store},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { service.Loop(ctx, "console pulse", 20*time.Millisecond, nil, log, pulse.Poll) })
	t.Cleanup(func() { cancel(); done.Wait() })
	s.Server = httptest.NewTLSServer(handler) // cookies are for TLS only
	t.Cleanup(s.Close)
	return s
}

// browser is a visitor of the site.
type browser struct {
	t    *testing.T
	site *site
	http *http.Client
}

// page is what a browser receives, after redirects.
type page struct {
	status int
	path   string // with the query
	raw    string
	text   string // unescaped
	header http.Header
}

func (s *site) visit(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, s, &http.Client{Transport: s.Client().Transport, Jar: jar, Timeout: soon}}
}

func (s *site) logIn(t *testing.T, token string) *browser {
	t.Helper()
	b := s.visit(t)
	if p := b.post("/console/login", "token", token); p.status != http.StatusOK || p.path != "/console/" {
		t.Fatalf("log in: %d at %s", p.status, p.path)
	}
	return b
}

func (b *browser) do(r *http.Request) page {
	b.t.Helper()
	answer, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	text := webtest.Resolve(answer, string(body))
	return page{answer.StatusCode, answer.Request.URL.RequestURI(), text, html.UnescapeString(text), answer.Header}
}

func (b *browser) get(path string) page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.site.URL+path, http.NoBody)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(r)
}

// post sends a form as the site's own pages do.
func (b *browser) post(path string, fields ...string) page {
	b.t.Helper()
	return b.do(b.form(path, fields...))
}

func (b *browser) form(path string, fields ...string) *http.Request {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.site.URL+path,
		strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return r
}

func (p page) wants(t *testing.T, status int, texts ...string) {
	t.Helper()
	if p.status != status {
		t.Errorf("%s: %d, want %d", p.path, p.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(p.text, text) {
			t.Errorf("%s: no %q in %s", p.path, text, p.text)
		}
	}
}

func (p page) lacks(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(p.text, text) {
			t.Errorf("%s: %q in %s", p.path, text, p.text)
		}
	}
}

// sagas adds n signups in a state, with an error if one is given, and returns their saga ids, oldest first.
func (s *site) sagas(t *testing.T, n int, state, fingerprint, message string) []string {
	t.Helper()
	class := ""
	if fingerprint != "" {
		class = "rejected"
	}
	rows, err := s.pool.Query(t.Context(), `-- name: testSagas
WITH old AS (SELECT count(*) AS n FROM member), m AS (
INSERT INTO member (id, username, username_key, plan, password_hash, created_at)
SELECT gen_random_uuid(), 'member' || old.n + i, 'member' || old.n + i, 'free', 'x',
    now() - make_interval(secs => $1 - i) FROM old, generate_series(1, $1::int) AS i RETURNING id, created_at)
INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at, due_at,
    created_at, updated_at, error_class, error_message, error_fingerprint)
SELECT gen_random_uuid(), id, 'sgn_' || replace(id::text, '-', '') || '00000000', $2, 1, 1, created_at, created_at,
    CASE WHEN $2 LIKE '%ing' THEN now() + interval '30 s' END, created_at, created_at, $3, $4, $5 FROM m
RETURNING id::text, created_at`, n, state, class, message, fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		var at time.Time
		if err := rows.Scan(&id, &at); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return ids
}

func TestLogin(t *testing.T) {
	s := open(t)
	b := s.visit(t)
	p := b.get("/console/sagas?state=ready")
	p.wants(t, 200, "Admin token")
	if want := "/console/login?next=%2Fconsole%2Fsagas%3Fstate%3Dready"; p.path != want {
		t.Errorf("asked to log in at %s, want %s", p.path, want)
	}
	b.post("/console/login", "token", "wrong").wants(t, 401, "This is not an admin token")
	if p := b.post("/console/login", "token", " operator-token ", "next", "/console/?x=y"); p.path != "/console/?x=y" {
		t.Errorf("logged in at %s", p.path)
	}
	for _, foreign := range []string{"https://example.org/", "//example.org/console/", "/admin/v1/sagas",
		"/console/logout"} {
		if p := s.visit(t).post("/console/login", "token", "viewer-token", "next", foreign); p.path != "/console/" {
			t.Errorf("next=%s leads to %s", foreign, p.path)
		}
	}
	site, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	b.get("/console").wants(t, 200, "ann", "operator", "Log out")
	for _, c := range b.http.Jar.Cookies(site) {
		if strings.Contains(c.Value, "operator-token") {
			t.Error("the cookie shows the token")
		}
	}
	stolen, other := b.http.Jar.Cookies(site), s.logIn(t, "operator-token")
	b.post("/console/logout").wants(t, 200, "Admin token")
	b.get("/console/").wants(t, 200, "Admin token")
	b.http.Jar.SetCookies(site, stolen)
	b.get("/console/").wants(t, 200, "Admin token")
	other.get("/console/").wants(t, 200, "Overview")

	forgetful := &browser{t, s, &http.Client{Transport: s.Client().Transport, Timeout: soon}}
	forgetful.post("/console/login", "token", "operator-token").wants(t, 200, "did not keep the session")
}

func TestLoginsAreLimited(t *testing.T) {
	s := open(t)
	s.watch()
	for range 10 {
		s.visit(t).post("/console/login", "token", "a wrong token").wants(t, 401, "This is not an admin token")
	}
	p := s.visit(t).post("/console/login", "token", "operator-token")
	p.wants(t, 429, "There were too many wrong tokens. Try again in ")
	if p.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// The database knows which sessions were ended. Without it, nobody is let in, and nobody is sent to the login
// page.
func TestLogoutNeedsTheDatabase(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "operator-token")
	s.pool.Close()
	b.get("/console/").wants(t, 503, "cannot be checked at the moment")
	b.post("/console/logout").wants(t, 503, "log out again")
}

func TestCookieIsForThisHostOnly(t *testing.T) {
	s := open(t)
	b := &browser{t, s, &http.Client{Transport: s.Client().Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	p := b.post("/console/login", "token", "operator-token")
	got := p.header.Get("Set-Cookie")
	for _, want := range []string{"__Host-console=", "Path=/;", "HttpOnly", "Secure", "SameSite=Strict"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if p.status != http.StatusSeeOther || strings.Contains(got, "Domain") {
		t.Errorf("%d, cookie %s", p.status, got)
	}
}

func TestForeignFormsAreRefused(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "operator-token")
	r := b.form("/console/logout")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if p := b.do(r); p.status != http.StatusForbidden {
		t.Errorf("a foreign form is answered %d", p.status)
	}
	b.get("/console/").wants(t, 200, "Overview")
}

// Paths outside the console go to the API as before, without the rights of a session.
func TestTheAPIIsAsBefore(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "operator-token")
	b.get("/admin/v1/overview").wants(t, 401, "unauthorized")
	b.get("/livez").wants(t, 200)
	b.get("/nothing").wants(t, 404, "not_found")
	b.post("/livez").wants(t, 405, "method_not_allowed")
	r := b.form("/admin/v1/retries")
	r.Header.Set("Authorization", "Bearer operator-token")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Sec-Fetch-Site", "cross-site") // programs may call from anywhere
	if p := b.do(r); p.status != http.StatusBadRequest {
		t.Errorf("the API answers %d", p.status)
	}
	p := b.get("/console/nothing")
	p.wants(t, 404, "there is no such page")
	if !strings.HasPrefix(p.header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("headers %v", p.header)
	}
}

func TestPagesReceiveChanges(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "viewer-token")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/console/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := b.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	next := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("the stream ends before %q: %v", want, lines.Err())
	}
	id := s.sagas(t, 1, "ready", "", "")[0]
	for i, change := range []string{
		"INSERT INTO saga_event (saga_id, kind, state, version, generation) VALUES ($1, 'x', 'ready', 1, 1)",
		"INSERT INTO admin_audit (actor, action, saga_id, reason, before, after) VALUES ('ann', 'retry', $1, 'x', " +
			"'{}', '{}')",
		"UPDATE provider_report SET reported_at = now() WHERE $1 <> ''",
		"UPDATE reconciliation SET finished_at = now() WHERE $1 <> ''",
		"INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, matched, remaining) VALUES " +
			"($1::uuid, 'ann', 'x', '{}', 1, 1, 0, 0)",
		"UPDATE group_retry SET released = 1 WHERE $1 <> ''",
	} {
		storetest.Exec(t, s.pool, change, id)
		next("event: changed")
		t.Log(fmt.Sprint("told of change ", i))
	}
	if p := s.visit(t).get("/console/events"); p.path != "/console/login" {
		t.Errorf("a stranger is answered %d at %s", p.status, p.path)
	}
}
