package outboxotel_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/internal/relaytest"
	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
	"github.com/signup-saga/signup-saga/outbox/outboxotel"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	state  = "vendor=value"
)

// traced returns ctx as it would be within a traced request.
func traced(ctx context.Context) context.Context {
	return outboxotel.Extract(ctx, map[string]string{"traceparent": parent, "tracestate": state})
}

func tracing(t testing.TB) (*trace.TracerProvider, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return provider, exporter
}

// A traced event, one without a trace, and one that dies, on real servers.
func TestTraceGoesThroughTheOutbox(t *testing.T) {
	ctx, pool, broker := relaytest.Servers(t)
	nc := relaytest.Connect(t, broker)
	provider, exporter := tracing(t)
	good, plain, bad := relaytest.Event(1), relaytest.Event(2), relaytest.Event(3)
	outboxotel.Inject(traced(ctx), &good)
	bad.Headers = map[string]string{"Nats-Msg-Id": "not allowed"}
	appended := time.Now()
	relaytest.Append(ctx, t, pool, good, plain, bad)

	published := make(chan int, 1)
	relaytest.Start(ctx, t, pool, nc, outboxotel.Hooks(provider,
		outbox.Hooks{Published: func(batch []*nats.Msg, _ time.Time) { published <- len(batch) }}))
	select {
	case n := <-published:
		if n != 2 {
			t.Fatalf("%d events published, want 2", n)
		}
	case <-ctx.Done():
		t.Fatal("nothing was published")
	}
	spans := exporter.GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want one of the dead event and one of the traced one: %v", len(spans), spans)
	}
	died, sent := spans[0], spans[1]
	if died.Status.Code != codes.Error || died.Status.Description == "" || died.Parent.IsValid() ||
		died.SpanKind != oteltrace.SpanKindProducer {
		t.Errorf("the dead event's span: %+v", died)
	}
	wantAttributes(t, died, map[attribute.Key]any{"messaging.message.id": bad.ID, "error.type": "*errors.errorString"})
	if sent.Name != "publish orders.paid" || sent.SpanKind != oteltrace.SpanKindProducer ||
		sent.Status.Code != codes.Unset {
		t.Errorf("the published event's span: %+v", sent)
	}
	if !sent.Parent.Equal(oteltrace.SpanContextFromContext(traced(ctx))) ||
		sent.SpanContext.TraceID() != sent.Parent.TraceID() {
		t.Errorf("the span's parent is %v", sent.Parent)
	}
	if sent.StartTime.Before(appended) || !sent.EndTime.After(sent.StartTime) || sent.EndTime.After(time.Now()) {
		t.Errorf("the span is from %v to %v, the event was appended %v", sent.StartTime, sent.EndTime, appended)
	}
	wantAttributes(t, sent, map[attribute.Key]any{
		"messaging.system": "nats", "messaging.operation.name": "publish", "messaging.operation.type": "send",
		"messaging.destination.name": "orders.paid", "messaging.message.id": good.ID,
		"messaging.message.body.size": int64(len(good.Payload)),
	})

	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	for seq, want := range []oteltrace.SpanContext{oteltrace.SpanContextFromContext(traced(ctx)), {}} {
		m, err := stream.GetMsg(ctx, uint64(seq+1))
		if err != nil {
			t.Fatal(err)
		}
		if got := oteltrace.SpanContextFromContext(outboxotel.Extract(ctx, m.Header)); !got.Equal(want) {
			t.Errorf("message %d carries %v, want %v", seq+1, got, want)
		}
	}
}

func wantAttributes(t *testing.T, span tracetest.SpanStub, want map[attribute.Key]any) {
	t.Helper()
	got := attribute.NewSet(span.Attributes...)
	for key, value := range want {
		if v, _ := got.Value(key); v.AsInterface() != value {
			t.Errorf("%s: %s is %v, want %v", span.Name, key, v.AsInterface(), value)
		}
	}
}

func TestInjectReplacesAnotherTraceAndLeavesTheMapAlone(t *testing.T) {
	shared := map[string]string{"ce-sagaid": "s", "traceparent": "old", "tracestate": "old=1"}
	withState, without := outbox.Event{Headers: shared}, outbox.Event{Headers: shared}
	outboxotel.Inject(traced(t.Context()), &withState)
	outboxotel.Inject(outboxotel.Extract(t.Context(), map[string]string{"traceparent": parent}), &without)
	for _, c := range []struct{ got, want map[string]string }{
		{withState.Headers, map[string]string{"ce-sagaid": "s", "traceparent": parent, "tracestate": state}},
		{without.Headers, map[string]string{"ce-sagaid": "s", "traceparent": parent}},
		{shared, map[string]string{"ce-sagaid": "s", "traceparent": "old", "tracestate": "old=1"}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
}

func TestExtract(t *testing.T) {
	want := oteltrace.SpanContextFromContext(traced(t.Context()))
	if !want.IsRemote() || want.TraceState().String() != state {
		t.Fatalf("extracted %+v", want)
	}
	for name, c := range map[string]struct {
		header nats.Header
		found  bool
	}{
		"as sent":           {nats.Header{"traceparent": {parent}, "tracestate": {state}}, true},
		"state in parts":    {nats.Header{"traceparent": {parent}, "tracestate": {state, "other=1"}}, true},
		"no header":         {nil, false},
		"empty":             {nats.Header{"traceparent": {}}, false},
		"malformed":         {nats.Header{"traceparent": {"00-0-0-00"}}, false},
		"given twice":       {nats.Header{"traceparent": {parent, parent}}, false},
		"in the wrong case": {nats.Header{"Traceparent": {parent}}, false},
	} {
		got := oteltrace.SpanContextFromContext(outboxotel.Extract(t.Context(), c.header))
		if got.IsValid() != c.found || c.found &&
			(got.SpanID() != want.SpanID() || got.TraceState().Get("vendor") != "value") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestUntracedEventsCostNothing(t *testing.T) {
	e, m := relaytest.Event(1), nats.NewMsg("orders.paid")
	_, span := noop.NewTracerProvider().Tracer("").Start(t.Context(), "off")
	provider, _ := tracing(t)
	batch, hooks, began := []*nats.Msg{m}, outboxotel.Hooks(provider, outbox.Hooks{}), time.Now()
	off := oteltrace.ContextWithSpan(t.Context(), span)
	for name, f := range map[string]func(){
		"Inject without a span":    func() { outboxotel.Inject(context.Background(), &e) },
		"Inject in a no-op span":   func() { outboxotel.Inject(off, &e) },
		"Published without traces": func() { hooks.Published(batch, began) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if e.Headers != nil {
		t.Errorf("headers %v without a trace", e.Headers)
	}
}

// Every hook that a caller sets is still called, once, including hooks that are added in future.
func TestHooksCallTheNext(t *testing.T) {
	provider, _ := tracing(t)
	next, calls := outbox.Hooks{}, map[string]int{}
	for field, hook := range reflect.ValueOf(&next).Elem().Fields() {
		hook.Set(reflect.MakeFunc(hook.Type(), func([]reflect.Value) []reflect.Value {
			calls[field.Name]++
			out := make([]reflect.Value, hook.Type().NumOut())
			for i := range out {
				out[i] = reflect.Zero(hook.Type().Out(i))
			}
			return out
		}))
	}
	for _, hooks := range []outbox.Hooks{outboxotel.Hooks(provider, next), outboxotel.Hooks(provider, outbox.Hooks{})} {
		for field, hook := range reflect.ValueOf(hooks).Fields() {
			if hook.IsNil() {
				continue // not set in the empty Hooks
			}
			args := make([]reflect.Value, hook.Type().NumIn())
			for i := range args {
				args[i] = reflect.Zero(hook.Type().In(i))
				if args[i].Type() == reflect.TypeFor[error]() {
					args[i] = reflect.ValueOf(errors.New("test"))
				}
			}
			hook.Call(args)
			if calls[field.Name] != 1 {
				t.Errorf("%s was called %d times", field.Name, calls[field.Name])
			}
		}
	}
}
