package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	engine "github.com/signup-saga/signup-saga/service/reconcile"
)

// A replica is suspended in the middle of a run until another one has taken over.
func TestPausedReplicaDoesNothingMore(t *testing.T) {
	f := open(t, 100)
	for i := range 3 {
		f.member(fmt.Sprint("mina", i), saga.Ready)
	}
	f.settle()
	paused, resume := make(chan struct{}), make(chan struct{})
	var visited atomic.Bool
	f.storages.hook(func(path string) int {
		if strings.HasPrefix(path, "/v1/storages/") && !visited.Swap(true) {
			close(paused)
			<-resume
		}
		return 0
	})
	done := make(chan error, 1)
	go func() { _, err := f.Run(context.Background(), 0); done <- err }()
	select {
	case <-paused:
	case err := <-done:
		t.Fatalf("the run ended before it was paused: %v", err)
	}
	other := f.replica(100)
	if _, err := other.Run(t.Context(), 0); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("two at a time: %v", err)
	}
	storetest.Exec(t, f.pool, "UPDATE reconciliation SET lease_until = now()") // the lease of a dead replica expires
	report, err := other.Run(t.Context(), 0)
	if err != nil || report.Repaired != 3 {
		t.Errorf("%+v, %v", report, err)
	}
	close(resume)
	if err := <-done; err == nil {
		t.Error("a run without a lease came to an end")
	}
	if n := strings.Count(f.sent(), "storage.provision"); n != 3 {
		t.Errorf("%d commands, want 3: %s", n, f.sent())
	}
}

func TestScheduleAndAbsentStorageService(t *testing.T) {
	f := open(t, 100)
	f.member("mina", saga.Ready)
	f.settle()
	f.storages.hook(func(string) int { return http.StatusServiceUnavailable })
	if _, err := f.Run(t.Context(), time.Hour); err == nil || errors.Is(err, engine.ErrBusy) {
		t.Fatalf("the Storage service is away: %v", err)
	}
	f.storages.hook(nil)
	if _, err := f.Run(t.Context(), time.Hour); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("begun again at once: %v", err)
	}
	storetest.Exec(t, f.pool, "UPDATE reconciliation SET lease_until = lease_until - interval '1 minute'")
	report, err := f.Run(t.Context(), time.Hour)
	if err != nil || report.Repaired != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := f.Run(t.Context(), time.Hour); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("begun again within the hour: %v", err)
	}
	storetest.Exec(t, f.pool, "UPDATE reconciliation SET finished_at = finished_at - interval '1 hour'")
	if _, err := f.Run(t.Context(), time.Hour); err != nil {
		t.Errorf("after an hour: %v", err)
	}
}

// An answer that cannot be trusted causes no repair.
func TestStrangeAnswersEndTheRun(t *testing.T) {
	f := open(t, 100)
	f.member("mina", saga.Ready)
	f.settle()
	for name, answer := range map[string]string{
		"another service": "404 page not found", "another service for one storage": `{"items":[]}`,
		"an empty answer": "", "out of order": `{"items":[{"member_id":"b"},{"member_id":"a"}]}`,
	} {
		strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(answer, "404") || r.URL.Path != "/v1/storages" {
				w.WriteHeader(http.StatusNotFound)
			}
			fmt.Fprint(w, answer)
		}))
		cfg := engine.Config{MinAge: time.Minute, MaxRepairs: 1}
		r := reconcile.New(cfg, f.pool, f.store, storetest.Steps, slog.New(slog.DiscardHandler),
			reconcile.NewStorages(strange.URL, token))
		if _, err := r.Run(t.Context(), 0); err == nil {
			t.Errorf("%s: no error", name)
		}
		strange.Close()
	}
	wrong := reconcile.New(engine.Config{MinAge: time.Minute, MaxRepairs: 1}, f.pool,
		f.store, storetest.Steps, nil, reconcile.NewStorages(f.storages.URL, "wrong"))
	if _, err := wrong.Check(t.Context(), true); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("wrong token: %v", err)
	}
	f.storages.hook(func(string) int { return http.StatusTooManyRequests })
	_, err := f.replica(1).Check(t.Context(), true)
	if err == nil || !strings.Contains(err.Error(), "set STORAGE_CLIENT_TOKEN") {
		t.Errorf("after many wrong tokens: %v", err)
	}
	if f.sent() != "" {
		t.Errorf("sent %s", f.sent())
	}
}

// Whatever damage other rows have, a run ends well and repairs what can be repaired.
func TestDamagedSagasHoldUpNoRun(t *testing.T) {
	f := open(t, 1000)
	good := f.member("good", saga.Ready)
	var damaged []string
	for name, set := range storetest.Damages() {
		r := f.member(fmt.Sprint("damaged", len(damaged)), saga.Ready)
		f.settle()
		storetest.Exec(t, f.pool, "UPDATE signup_saga SET "+set+" WHERE id = $1", r.ID)
		damaged = append(damaged, name)
	}
	f.run()
	if got := f.sent(); !strings.Contains(got, "good storage.provision 1 ") {
		t.Errorf("%s of %v was not commanded: %s", good.ID, damaged, got)
	}
}

// A member leaves while the database refuses to change the saga, so the storage stays. The first run after the
// repair of the database takes it back.
func TestErasedMemberIsWithdrawn(t *testing.T) {
	f := open(t, 100)
	r := f.member("left", saga.Ready)
	f.storages.put(r.MemberID, r.ID, 1, "present", "ready")
	storetest.Exec(t, f.pool, "ALTER TABLE signup_saga ADD CONSTRAINT damaged CHECK (state = 'ready')")
	withdraw := store.Change{SagaID: r.ID, Event: saga.Event{Kind: saga.Withdraw}}
	if _, err := f.store.Apply(t.Context(), withdraw); err != nil {
		t.Fatal(err)
	}
	f.settle()
	const found = "orphan: left, ready, storage desired present, status ready"
	if got := f.run(); findings(got) != found || got.Repaired != 0 || f.sent() != "" {
		t.Errorf("while the database refuses: %q, %d repaired, sent %q", findings(got), got.Repaired, f.sent())
	}
	storetest.Exec(t, f.pool, "ALTER TABLE signup_saga DROP CONSTRAINT damaged")
	if got := f.run(); findings(got) != found || got.Repaired != 1 || f.sent() != "left storage.deprovision 2" {
		t.Errorf("after the repair: %q, %d repaired, sent %q", findings(got), got.Repaired, f.sent())
	}
	if got := f.run(); findings(got) != "" {
		t.Errorf("once more: %q", findings(got))
	}
}
