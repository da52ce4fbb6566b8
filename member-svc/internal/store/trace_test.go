package store_test

import (
	"context"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

// lastCommand returns the trace context of the newest command.
func (f *fixture) lastCommand(t *testing.T) (traceParent string) {
	t.Helper()
	err := f.pool.QueryRow(t.Context(), `SELECT coalesce(headers->>'traceparent', '')
FROM outbox_event_essential ORDER BY id DESC LIMIT 1`).Scan(&traceParent)
	if err != nil {
		t.Fatal(err)
	}
	return traceParent
}

// kept returns the trace context that a saga keeps.
func (f *fixture) kept(t *testing.T, id string) string {
	t.Helper()
	r, _, err := f.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r.TraceParent
}

func traceOf(traceParent string) string { return strings.Split(traceParent+"--", "-")[1] }

// The saga keeps the trace of the signup for its timers, until an operator acts: that starts a trace of its
// own.
func TestTracesOfASaga(t *testing.T) {
	f := open(t)
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	f.Tracer = service.NewTracer(provider)
	last := func(name string) tracetest.SpanStub {
		t.Helper()
		all := spans.GetSpans()
		if len(all) == 0 || all[len(all)-1].Name != name {
			t.Fatalf("the last span is not %s: %v", name, all.Snapshots())
		}
		return all[len(all)-1]
	}

	signup, _ := f.Tracer.Start(t.Context(), "signup", trace.SpanKindServer)
	m, r, effects := f.begin("mina")
	if err := f.SignUp(signup, m, r, effects, nil); err != nil {
		t.Fatal(err)
	}
	first := service.TraceParent(signup)
	if kept, sent := f.kept(t, r.ID), f.lastCommand(t); kept != first || sent != first {
		t.Errorf("the saga keeps %q, the command carries %q, want %q", kept, sent, first)
	}

	f.publish(t)
	f.overdue(t, "1 second")
	f.fillBudget(t)
	if n, err := f.Redrive(t.Context(), 100, 100); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if s := last("saga timer_due"); !strings.Contains(first, s.Parent.SpanID().String()) ||
		!strings.Contains(f.lastCommand(t), s.SpanContext.SpanID().String()) || f.kept(t, r.ID) != first {
		t.Errorf("a timer's span is below %v, its command carries %s, the saga keeps %s", s.Parent, f.lastCommand(t),
			f.kept(t, r.ID))
	}

	message, consumed := f.Tracer.Start(t.Context(), "message", trace.SpanKindConsumer)
	if _, err := f.Apply(t.Context(), store.Change{SagaID: r.ID, Event: reply(saga.Rejected, 1),
		TraceParent: service.TraceParent(message)}); err != nil {
		t.Fatal(err)
	}
	if s := last("saga rejected"); s.Parent.SpanID() != consumed.SpanContext().SpanID() || f.kept(t, r.ID) != first {
		t.Errorf("a reply's span is below %v, the saga keeps %s", s.Parent, f.kept(t, r.ID))
	}

	operator, asked := f.Tracer.Start(t.Context(), "operator", trace.SpanKindServer)
	if _, err := f.Apply(operator,
		store.Change{SagaID: r.ID, Event: saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "test"}}); err != nil {
		t.Fatal(err)
	}
	second := f.kept(t, r.ID)
	if s := last("saga retried"); s.Parent.SpanID() != asked.SpanContext().SpanID() || second != f.lastCommand(t) ||
		traceOf(second) != asked.SpanContext().TraceID().String() ||
		len(s.Links) != 1 || s.Links[0].SpanContext.TraceID().String() != traceOf(first) {
		t.Errorf("the retry's span is below %v with links %v, the saga keeps %s, the command carries %s", s.Parent,
			s.Links, second, f.lastCommand(t))
	}
	if results, err := f.Apply(operator, store.Change{SagaID: r.ID, Event: saga.Event{Kind: saga.Retried, Actor: "ann",
		Reason: "again"}}); err != nil || results[0].Record.TraceParent != second {
		t.Errorf("a retry that changes nothing: %+v, %v", results, err)
	}
	f.apply(t, r.ID, reply(saga.Rejected, 2))

	group, begun := f.Tracer.Start(t.Context(), "group", trace.SpanKindServer)
	if _, err := f.BeginRetry(group, "ann", wire.NewGroupRetry{Reason: "test", Filter: map[string]string{}, Rate: 1,
		StopAfter: 1}, store.Filter{}); err != nil {
		t.Fatal(err)
	}
	if found, err := f.StepRetry(t.Context()); !found || err != nil {
		t.Fatal(found, err)
	}
	third := f.kept(t, r.ID)
	s := last("saga retried")
	if s.Parent.IsValid() || traceOf(third) == traceOf(second) || third != f.lastCommand(t) || len(s.Links) != 2 ||
		s.Links[0].SpanContext.TraceID().String() != traceOf(second) ||
		s.Links[1].SpanContext.SpanID() != begun.SpanContext().SpanID() {
		t.Errorf("a group's retry is below %v with links %v, the saga keeps %s, the command carries %s", s.Parent,
			s.Links, third, f.lastCommand(t))
	}
}

// Without a tracer a signup has no trace, and stores none.
func TestNoTraceWithoutATracer(t *testing.T) {
	f := open(t)
	r := f.signUp(t, "mina")
	f.apply(t, r.ID, reply(saga.Rejected, 1))
	f.apply(t, r.ID, saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "test"})
	if kept, sent := f.kept(t, r.ID), f.lastCommand(t); kept != "" || sent != "" {
		t.Errorf("the saga keeps %q, the command carries %q", kept, sent)
	}
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM outbox_event_essential WHERE headers::jsonb ? 'traceparent'"); n != 0 {
		t.Errorf("%d commands carry a trace", n)
	}
}
