package reconcile_test

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	engine "github.com/signup-saga/signup-saga/service/reconcile"
)

// twoSteps returns a fixture in which members get a mailbox after their storage.
func twoSteps(t *testing.T) (f *fixture, mailboxes *storages) {
	t.Helper()
	f = open(t, 100)
	steps := append(storetest.Steps[:1:1], saga.Step{
		Name: "mailbox", Command: "mailbox.provision", Compensation: "mailbox.deprovision",
		Promise: time.Minute, RedriveCap: time.Hour, GiveUpAge: 48 * time.Hour,
	})
	mailboxes = newStorages(t)
	f.store = store.New(f.pool, steps, storetest.Secret, func() {})
	cfg := engine.Config{MinAge: time.Minute, MaxRepairs: 100}
	f.Reconciler = reconcile.New(cfg, f.pool, f.store, steps, slog.New(slog.DiscardHandler),
		reconcile.NewStorages(f.storages.URL, token), reconcile.NewStorages(mailboxes.URL, token))
	return f, mailboxes
}

// apply applies events to a saga.
func (f *fixture) apply(r store.Record, events ...saga.Event) {
	f.t.Helper()
	for _, e := range events {
		if _, err := f.store.Apply(f.t.Context(), store.Change{SagaID: r.ID, Event: e}); err != nil {
			f.t.Fatal(err)
		}
	}
}

// Each step is compared with its own participant, which also gets the command for what is missing.
func TestEveryStepIsCompared(t *testing.T) {
	f, mailboxes := twoSteps(t)
	mailbox := saga.Event{Kind: saga.Provisioned, Step: "mailbox", Generation: 1}
	begun := f.member("begun", saga.Ready) // has a storage; the mailbox is in progress
	f.storages.put(begun.MemberID, begun.ID, 1, "present", "ready")
	var nothing store.Record
	for name, has := range map[string][2]bool{
		"whole": {true, true}, "no_storage": {false, true}, "no_mailbox": {true, false}, "nothing": {false, false},
	} {
		r := f.member(name, saga.Ready)
		f.apply(r, mailbox)
		if name == "nothing" {
			nothing = r
		}
		for i, participant := range []*storages{f.storages, mailboxes} {
			if has[i] {
				participant.put(r.MemberID, r.ID, 1, "present", "ready")
			}
		}
	}
	left := f.member("left", saga.Ready)
	f.apply(left, mailbox, saga.Event{Kind: saga.Withdraw},
		saga.Event{Kind: saga.Deprovisioned, Step: "mailbox", Generation: 2},
		saga.Event{Kind: saga.Deprovisioned, Step: "storage", Generation: 2})
	f.storages.put(left.MemberID, left.ID, 2, "absent", "absent")
	mailboxes.put(left.MemberID, left.ID, 1, "present", "ready")
	early := f.member("early", saga.Ready) // ready since before mailboxes existed
	f.storages.put(early.MemberID, early.ID, 1, "present", "ready")
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET state = 'ready' WHERE id = $1", early.ID)
	storetest.Exec(t, f.pool, "UPDATE signup_saga SET step = 0 WHERE id = $1", early.ID)
	f.settle()

	report := f.run()
	if report.Stranded != 4 || report.Orphans != 1 || report.Repaired != 4 {
		t.Errorf("%+v", report)
	}
	want := "no_mailbox mailbox.provision 1 107374182400, no_storage storage.provision 1 107374182400, " +
		"nothing storage.provision 1 107374182400, left mailbox.deprovision 2"
	if got := f.sent(); got != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
	// A saga gets one command at a time: the mailbox follows when the storage exists.
	f.storages.put(nothing.MemberID, nothing.ID, 1, "present", "ready")
	f.settle()
	f.run()
	want = strings.Replace(want, "nothing storage", "nothing mailbox", 1)
	if got := f.sent(); got != want {
		t.Errorf("sent in the second run\n%s\nwant\n%s", got, want)
	}

	mailboxes.mu.Lock()
	mailboxes.before = func(string) int { return http.StatusServiceUnavailable }
	mailboxes.mu.Unlock()
	if _, err := f.Check(t.Context(), false); err == nil {
		t.Error("storages of an unavailable participant were taken for missing")
	}
}
