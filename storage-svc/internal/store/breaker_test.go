package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// changes returns the events about the provider, in order.
func (f *fixture) changes() []contract.ProviderChange {
	f.t.Helper()
	rows, _ := f.pool.Query(f.t.Context(),
		"SELECT payload FROM outbox_event_nonessential WHERE type = 'storage.provider-changed' ORDER BY id")
	told, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c contract.ProviderChange, err error) {
		var payload []byte
		if err = row.Scan(&payload); err == nil {
			err = json.Unmarshal(payload, &c)
		}
		return c, err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return told
}

var (
	outage       = "outage"
	refused      = "dial tcp 127.0.0.1:9000: connection refused"
	refusedAgain = "dial tcp 127.0.0.1:9001: connection refused"
	unmounted    = "the provider has no identity"
)

func reason(text string) *contract.StorageError {
	kind := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) }), "-")
	return &contract.StorageError{Class: outage, Message: text, Fingerprint: outage + ":" + kind}
}

// An outage is reported when it begins, when it gets a reason of another kind, and when it ends, however many
// probes it takes. The event is written together with the change of the breaker, or not at all.
func TestOutageIsReported(t *testing.T) {
	f := open(t)
	g, err := f.Breaker(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at, token := g.Now, newToken()
	become := func(state provision.BreakerState) provision.Breaker {
		next := g
		next.Version, next.State, next.OpenedAt, next.ProbeToken = g.Version+1, state, &at, nil
		switch state {
		case provision.BreakerHalfOpen:
			next.ProbeToken = &token
		case provision.BreakerClosed:
			next.OpenedAt, next.ClosedAt = nil, at
		}
		return next
	}
	first := g
	for _, step := range []struct {
		state provision.BreakerState
		why   *string
	}{
		{provision.BreakerOpen, &refused}, {provision.BreakerHalfOpen, &refused},
		{provision.BreakerOpen, &refusedAgain}, {provision.BreakerHalfOpen, &refusedAgain},
		{provision.BreakerOpen, &unmounted}, {provision.BreakerHalfOpen, &unmounted},
		{provision.BreakerClosed, nil},
	} {
		state, next := step.state, become(step.state)
		if next.LastError = step.why; step.why != nil {
			next.ErrorClass = &outage
		}
		if written, err := f.SetBreaker(t.Context(), g, next); err != nil || !written {
			t.Fatalf("%s: %v %v", state, written, err)
		}
		g = next
	}
	if written, err := f.SetBreaker(t.Context(), first, become(provision.BreakerOpen)); err != nil || written {
		t.Errorf("of a breaker that has moved on: %v %v", written, err)
	}
	want := []contract.ProviderChange{
		{State: "open", Version: first.Version + 1, ChangedAt: at.UTC(), Error: reason(refused)},
		{State: "open", Version: first.Version + 5, ChangedAt: at.UTC(), Error: reason(unmounted)},
		{State: "closed", Version: first.Version + 7, ChangedAt: at.UTC()},
	}
	if told := f.changes(); !reflect.DeepEqual(told, want) {
		t.Errorf("reported %+v, want %+v", told, want)
	}
	if _, err := f.pool.Exec(t.Context(),
		"ALTER TABLE outbox_event_nonessential ADD CONSTRAINT broken CHECK (false) NOT VALID"); err != nil {
		t.Fatal(err)
	}
	if written, err := f.SetBreaker(t.Context(), g, become(provision.BreakerOpen)); err == nil || written {
		t.Errorf("without its event the breaker was set: %v %v", written, err)
	}
	if now, err := f.Breaker(t.Context()); err != nil || now.State != provision.BreakerClosed {
		t.Errorf("breaker %+v %v", now, err)
	}
}

// An outage of many probes and two reasons: the log has each reason with its text, in few lines, and the events
// have the newest reason.
func TestOutageSaysWhy(t *testing.T) {
	f := open(t)
	var commands []provision.Command
	for i := range 50 {
		commands = append(commands, command(i, 1, provision.Present))
	}
	f.apply(commands...)
	var why atomic.Pointer[error]
	var calls atomic.Int64
	away := func(text string) *error {
		err := error(&provision.Failure{Class: provision.ClassOutage, Err: errors.New(text)})
		return &err
	}
	why.Store(away(refused))
	var logged bytes.Buffer
	stop := f.work(&scripted{call: func(context.Context, provision.Storage) error {
		calls.Add(1)
		if err := why.Load(); err != nil {
			return *err
		}
		return nil
	}}, func(w *provision.Worker) { w.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
	probed := func(n int64) {
		from := calls.Load()
		testenv.Eventually(t, 20*time.Second, "probes", func() bool { return calls.Load() >= from+n })
	}
	probed(100)
	why.Store(away(unmounted))
	probed(100)
	why.Store(nil)
	f.eventuallyReady(50)
	testenv.Eventually(t, 5*time.Second, "the breaker to be closed", func() bool {
		g, err := f.Breaker(t.Context())
		return err == nil && g.Reason() == nil && g.ErrorClass == nil
	})
	stop()
	text := logged.String()
	for want, n := range map[string]int{
		`msg="the provider is away" class=outage error="` + refused: 1, `msg="the provider is back"`: 1,
		`alike=1 error="outage: ` + refused: 1, `alike=1 error="outage: ` + unmounted: 1,
	} {
		if got := strings.Count(text, want); got != n {
			t.Errorf("%d times, want %d: %s", got, n, want)
		}
	}
	if n := strings.Count(text, "\n"); n > 24 {
		t.Errorf("%d lines for %d calls:\n%s", n, calls.Load(), text)
	}
	told := f.changes()
	var reasons []*contract.StorageError
	for _, c := range told {
		reasons = append(reasons, c.Error)
	}
	want := []*contract.StorageError{reason(refused), reason(unmounted), nil}
	if !reflect.DeepEqual(reasons, want) || told[2].State != "closed" {
		t.Errorf("reported %+v", told)
	}
}
