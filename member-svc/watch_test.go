package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/reconcile"
)

// sink records each event once, however often it is delivered.
type sink struct {
	mu    sync.Mutex
	seen  map[string]int // by event id
	twice int
}

func (s *sink) handle(_ context.Context, batch []service.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range batch {
		e, err := contract.Parse(m.Headers, m.Body)
		if err != nil {
			return err
		}
		if s.seen[e.ID]++; s.seen[e.ID] == 2 {
			s.twice++
		}
	}
	return nil
}

func (s *sink) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range s.seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// A further durable consumer that member-svc does not know receives every event of both lanes, once each after
// removing duplicates, even though the broker loses all its data meanwhile.
func TestAuditSinkReceivesEveryEvent(t *testing.T) {
	broker := testenv.NATS(t)
	url := storetest.URL(t)
	env := environment(t, url, broker.URL)
	env["STUCK_AFTER"] = "1ms" // causes events of the third type that member-svc sends
	s := start(t, env)
	nc, err := service.ConnectNATS(service.Common{NATSURL: service.NewSecret(broker.URL)}, "audit",
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	audit := &sink{seen: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, lane := range contract.Lanes() {
		wg.Go(func() {
			_ = service.Consume(ctx, nc.Conn, service.ConsumerConfig{
				Stream: contract.Stream(contract.Member, lane), Durable: "audit-sink", Batch: 10,
				Log: slog.New(slog.DiscardHandler),
			}, audit.handle)
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait(); nc.Conn.Close() })
	pool := storetest.Connect(t, url)
	receives := func(what string, atLeast int) {
		t.Helper()
		testenv.Eventually(t, 60*time.Second, what, func() bool {
			rows, err := pool.Query(t.Context(),
				"-- name: allEvents\nSELECT event_id::text FROM outbox_event_essential UNION ALL SELECT "+
					"event_id::text FROM outbox_event_nonessential ORDER BY 1")
			if err != nil {
				t.Fatal(err)
			}
			want, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			return len(want) >= atLeast && slices.Equal(audit.ids(), want)
		})
	}
	for _, name := range []string{"mina", "nora", "olga"} {
		signUp(t, s, name)
	}
	receives("every event", 9) // each signup has a command, a welcome and a notice
	broker.Wipe()
	for _, name := range []string{"paul", "quentin"} {
		signUp(t, s, name)
	}
	receives("every event after the broker lost its data", 15)
	testenv.Eventually(t, 60*time.Second, "the events from before to come again", func() bool {
		audit.mu.Lock()
		defer audit.mu.Unlock()
		return audit.twice > 0
	})
}

func TestStuckSignupNotifiesAnOperator(t *testing.T) {
	broker := testenv.NATS(t)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		return contract.StorageRejected,
			&contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
	})
	calls := make(chan string, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls <- string(body)
	}))
	t.Cleanup(receiver.Close)
	env := environment(t, storetest.URL(t), broker.URL)
	env["STUCK_AFTER"] = "1s"
	env["STUCK_WEBHOOK_URL"], env["STUCK_WEBHOOK_SECRET"] = receiver.URL, "whsec_"+
		base64.StdEncoding.EncodeToString(make([]byte, 24))
	s := start(t, env)
	body := signUp(t, s, "mina")
	select {
	case got := <-calls:
		for _, want := range []string{`"type":"signup.stuck"`, `"reason":"rejected"`, body["member_id"].(string)} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in %s", want, got)
			}
		}
		if strings.Contains(got, "mina") || strings.Contains(got, "example.org") {
			t.Errorf("the notice names the member: %s", got)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("no notice arrived")
	}
	testenv.Eventually(t, 10*time.Second, "the call to be counted", func() bool {
		_, _, _, metrics := call(t, "GET", s.admin+"/metrics", "")
		return strings.Contains(metrics, `member_webhooks_total{result="sent"} 1`)
	})
}

// storageService is a fake storage-svc without any storage.
func storageService(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/v1/storages":
			_, _ = io.WriteString(w, `{"items":[]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"code":"not_found"}`)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestReconciliation(t *testing.T) {
	broker := testenv.NATS(t)
	var mu sync.Mutex
	commands := map[string]int{}
	fakeStorage(t, broker.URL, func(c contract.StorageCommand) (contract.Type, *contract.StorageError) {
		mu.Lock()
		defer mu.Unlock()
		commands[c.MemberID]++
		return contract.StorageProvisioned, nil
	})
	env := environment(t, storetest.URL(t), broker.URL)
	env["STORAGE_URL"], env["STORAGE_CLIENT_TOKEN"] = storageService(t), "token"
	env["RECONCILE_MIN_AGE"], env["RECONCILE_INTERVAL"] = "0s", "1h"
	subcommand := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), args, func(k string) string { return env[k] }, &out)
		return out.String(), err
	}
	s := start(t, env)
	if out, err := subcommand("reconcile", "--dry-run"); err != nil ||
		!strings.Contains(out, "accepted                   0\n") {
		t.Errorf("empty books: %v\n%s", err, out)
	}
	body := signUp(t, s, "mina")
	s.awaitState(t, body, "ready")
	id := body["member_id"].(string)
	out, err := subcommand("reconcile", "--dry-run")
	if !errors.Is(err, reconcile.ErrFound) || !strings.Contains(out, "stranded                   1\n") ||
		!strings.Contains(out, id+": ready, storage missing") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := subcommand("reconcile"); !errors.Is(err, reconcile.ErrFound) ||
		!strings.Contains(out, "repaired                   1\n") {
		t.Errorf("%v\n%s", err, out)
	}
	testenv.Eventually(t, 20*time.Second, "the command to come a second time", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return commands[id] == 2
	})
	s.awaitState(t, body, "ready")
	testenv.Eventually(t, 30*time.Second, "the gauge", func() bool {
		_, _, _, metrics := call(t, "GET", s.admin+"/metrics", "")
		return strings.Contains(metrics, "stranded_members 1\n") && strings.Contains(metrics, "orphan_storages 0\n")
	})
	env["STORAGE_CLIENT_TOKEN"] = "another"
	if _, err := subcommand("reconcile"); err == nil || !strings.Contains(err.Error(), "set STORAGE_CLIENT_TOKEN") {
		t.Errorf("with the token of somebody else: %v", err)
	}
	for _, name := range []string{"STORAGE_CLIENT_TOKEN", "STORAGE_URL"} {
		env[name] = ""
		if _, err := subcommand("reconcile"); err == nil || !strings.Contains(err.Error(), name+": required") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// Every consumer must have a handler; without one, the service does not start.
func TestEveryConsumerIsRead(t *testing.T) {
	handlers := map[string]handler{}
	for range program.Consumers {
		err := addConsumers(&service.Base{}, handlers)
		if err == nil || !strings.HasPrefix(err.Error(), "no handler for the messages of consumer ") {
			t.Fatal(err)
		}
		durable := strings.TrimPrefix(err.Error(), "no handler for the messages of consumer ")
		if handlers[durable] = nil; len(handlers) == 3 {
			return
		}
	}
	t.Errorf("%v", handlers)
}
