package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/webhook"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var key = []byte("a key of at least 24 bytes")

// receiver collects the ids of accepted posts, after checking their signatures.
type receiver struct {
	*httptest.Server
	t      *testing.T
	mu     sync.Mutex
	ids    []string
	bodies []string
	status int // answered; 0 means 204
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) serve(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	id, at := req.Header.Get("webhook-id"), req.Header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); err != nil ||
		req.Header.Get("webhook-signature") != want {
		r.t.Errorf("signature %q, want %q (%v)", req.Header.Get("webhook-signature"), want, err)
	}
	var seconds int64
	if _, err := fmt.Sscan(at, &seconds); err != nil || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute {
		r.t.Errorf("timestamp %q: %v", at, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids, r.bodies = append(r.ids, id), append(r.bodies, string(body))
	if r.status == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Location", r.URL)
	w.WriteHeader(r.status)
}

type fixture struct {
	*webhook.Webhook
	pool    *pgxpool.Pool
	mu      sync.Mutex
	counted map[string]int
}

func open(t *testing.T, url string) *fixture {
	t.Helper()
	f := &fixture{pool: storetest.Open(t), counted: map[string]int{}}
	var err error
	f.Webhook, err = webhook.New(webhook.Config{
		URL: url, Secret: "whsec_" + base64.StdEncoding.EncodeToString(key), MaxAttempts: 3, MaxAge: time.Hour,
		Log:     slog.New(slog.DiscardHandler),
		Observe: func(result string, n int) { f.mu.Lock(); defer f.mu.Unlock(); f.counted[result] += n },
	}, store.New(f.pool, storetest.Steps, storetest.Secret, nil))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const theMember = "01999e5c-0000-7000-8000-00000000000a"

func message(id string, at time.Time) service.Message {
	return service.Message{
		Subject: "signup.nonessential.signup.stuck",
		Headers: map[string][]string{"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {"/member-svc"},
			"ce-type": {string(contract.SignupStuck)}, "ce-time": {at.Format(time.RFC3339Nano)}},
		Body: []byte(`{"member_id":"` + theMember + `","saga_id":"` + theMember + `","generation":1,` +
			`"state":"needs_attention","reason":"rejected","since":"2026-11-22T10:00:00Z"}`),
	}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func (f *fixture) queue(t *testing.T, messages ...service.Message) {
	t.Helper()
	if err := f.Queue(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) work(t *testing.T) {
	t.Helper()
	storetest.Exec(t, f.pool, "UPDATE webhook SET next_attempt_at = now()")
	if _, err := f.Work(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) expect(t *testing.T, want map[string]int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if fmt.Sprint(f.counted) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", f.counted, want)
	}
}

func TestWebhookIsSignedAndSentOnce(t *testing.T) {
	r := newReceiver(t)
	f := open(t, r.URL)
	id := newID()
	f.queue(t, message(id, time.Now()), message(id, time.Now()), message("no uuid", time.Now()),
		service.Message{Body: []byte("{")})
	for range 2 {
		f.work(t)
		f.queue(t, message(id, time.Now())) // the broker delivers it again
	}
	if len(r.ids) != 1 || r.ids[0] != id {
		t.Fatalf("sent %v, want %s once", r.ids, id)
	}
	e, err := contract.Parse(map[string][]string{"content-type": {contract.StructuredContentType}}, []byte(r.bodies[0]))
	var data contract.Stuck
	if err == nil {
		err = e.DataTo(&data)
	}
	if err != nil || e.ID != id || data.Reason != "rejected" || data.MemberID != theMember {
		t.Errorf("%+v %+v %v", e, data, err)
	}
	f.expect(t, map[string]int{webhook.Sent: 1})
}

func TestWebhookGivesUpAfterItsAttempts(t *testing.T) {
	r := newReceiver(t)
	f := open(t, r.URL)
	for _, status := range []int{http.StatusInternalServerError, http.StatusFound} { // redirects are not followed
		r.status = status
		f.queue(t, message(newID(), time.Now()))
		for range 5 {
			f.work(t)
		}
	}
	if len(r.ids) != 6 || r.ids[0] != r.ids[2] {
		t.Errorf("%d posts, want 3 of each, always under one id: %v", len(r.ids), r.ids)
	}
	r.status = http.StatusGone
	f.queue(t, message(newID(), time.Now()))
	f.work(t)
	f.work(t)
	if len(r.ids) != 7 {
		t.Errorf("%d posts, want one more: the receiver is gone for good", len(r.ids))
	}
	f.expect(t, map[string]int{webhook.Delayed: 4, webhook.Dropped: 3})
}

func TestAbsentReceiverIsTriedAgainSoon(t *testing.T) {
	f := open(t, "http://127.0.0.1:1")
	f.queue(t, message(newID(), time.Now()))
	f.work(t)
	if n := storetest.Count(t, f.pool, `SELECT count(*) FROM webhook WHERE state = 'queued'
AND next_attempt_at BETWEEN now() - interval '1 minute' AND now() + interval '1 second'`); n != 1 {
		t.Error("the first wait is not below a second")
	}
	f.expect(t, map[string]int{webhook.Delayed: 1})
}

// The row and the log give the reason, but not the URL, which may hold a secret.
func TestWebhookSaysWhyTheReceiverCannotBeReached(t *testing.T) {
	strange := httptest.NewTLSServer(http.NotFoundHandler())
	defer strange.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	rude := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
	}))
	defer rude.Close()
	for url, why := range map[string]string{
		"http://127.0.0.1:1": "connection refused",
		strange.URL:          "x509: certificate signed by unknown authority",
		strings.Replace(plain.URL, "http", "https", 1): "server gave HTTP response to HTTPS client",
		rude.URL: "EOF",
	} {
		f := open(t, strings.TrimSuffix(url, "/")+"/hidden?token=hidden")
		f.queue(t, message(newID(), time.Now()))
		f.work(t)
		var reason string
		err := f.pool.QueryRow(t.Context(), "-- name: testReason\nSELECT error FROM webhook").Scan(&reason)
		said, ok := strings.CutPrefix(reason, "the receiver cannot be reached: ")
		if err != nil || !ok || !strings.Contains(said, why) {
			t.Errorf("%s: %q %v", why, reason, err)
		}
		if strings.Contains(reason, "hidden") {
			t.Errorf("the URL is in %q", reason)
		}
	}
}

func TestOldNoticesExpire(t *testing.T) {
	r := newReceiver(t)
	f := open(t, r.URL)
	sent := newID()
	f.queue(t, message(sent, time.Now()))
	f.work(t)
	f.queue(t, message(newID(), time.Now()))
	storetest.Exec(t, f.pool, "UPDATE webhook SET created_at = now() - interval '2 hours'")
	f.work(t)
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM webhook"); n != 0 {
		t.Errorf("%d rows are kept for ever", n)
	}
	f.queue(t, message(sent, time.Now().Add(-2*time.Hour))) // its row is deleted, but the event is too old as well
	f.work(t)
	if len(r.ids) != 1 {
		t.Errorf("%d posts, want 1", len(r.ids))
	}
	f.expect(t, map[string]int{webhook.Sent: 1, webhook.Expired: 2})
}

// If a sender dies between the receiver's answer and its record, the notice is sent again.
func TestWebhookIsSentAgainAfterACrash(t *testing.T) {
	r := newReceiver(t)
	f := open(t, r.URL)
	id := newID()
	f.queue(t, message(id, time.Now()))
	storetest.Exec(t, f.pool,
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''injected''; END'`)
	storetest.Exec(t, f.pool,
		"CREATE TRIGGER broken BEFORE UPDATE ON webhook FOR EACH ROW WHEN (NEW.state = 'sent') EXECUTE "+
			"FUNCTION refuse()")
	if _, err := f.Work(t.Context()); err == nil {
		t.Fatal("the result cannot be written, but nothing failed")
	}
	storetest.Exec(t, f.pool, "DROP TRIGGER broken ON webhook")
	if _, err := f.Work(t.Context()); err != nil || len(r.ids) != 1 {
		t.Errorf("claimed again within the lease: %d posts, %v", len(r.ids), err)
	}
	f.work(t)
	if len(r.ids) != 2 || r.ids[0] != r.ids[1] {
		t.Errorf("posts %v, want %s twice", r.ids, id)
	}
	f.expect(t, map[string]int{webhook.Sent: 1})
}

func TestHangingReceiverHoldsUpNobody(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 16)
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(release) })
	f := open(t, hanging.URL)
	for range 20 {
		f.queue(t, message(newID(), time.Now()))
	}
	done := make(chan error, 1)
	go func() { _, err := f.Work(t.Context()); done <- err }()
	for range 8 {
		<-arrived
	}
	f.queue(t, message(newID(), time.Now())) // the consumer continues
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM webhook WHERE attempts = 1"); n != 8 {
		t.Errorf("%d claimed at once, want 8", n)
	}
	for range 8 {
		release <- struct{}{}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestGoldenNotice(t *testing.T) {
	raw, err := os.ReadFile("../../../../contract/testdata/v1/signup.stuck.json")
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, "http://127.0.0.1:1")
	m := service.Message{
		Subject: "signup.nonessential.signup.stuck",
		Headers: map[string][]string{"content-type": {contract.StructuredContentType}}, Body: raw,
	}
	f.queue(t, m)
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM webhook") + f.counted[webhook.Expired]; n != 1 {
		t.Errorf("%d notices queued or expired, want 1", n)
	}
}

func TestBadWebhookConfiguration(t *testing.T) {
	good := "whsec_" + base64.StdEncoding.EncodeToString(key)
	for name, cfg := range map[string]webhook.Config{
		"no prefix":  {URL: "https://example.org", Secret: base64.StdEncoding.EncodeToString(key)},
		"too short":  {URL: "https://example.org", Secret: "whsec_c2hvcnQ="},
		"no base64":  {URL: "https://example.org", Secret: "whsec_!"},
		"no scheme":  {URL: "example.org", Secret: good},
		"ftp":        {URL: "ftp://example.org", Secret: good},
		"no host":    {URL: "https://", Secret: good},
		"not an URL": {URL: "http://[", Secret: good},
	} {
		if _, err := webhook.New(cfg, nil); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
