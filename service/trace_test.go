package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

const (
	elsewhere = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

func recording(t testing.TB) (*Tracer, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return NewTracer(provider), spans
}

// Without an endpoint there is no tracer, and nothing that handles a request, a query or a message allocates.
func TestTracingOffCostsNothing(t *testing.T) {
	for _, environment := range [][2]string{
		{"OTEL_TRACES_SAMPLER", "always_on"}, {"OTEL_TRACES_EXPORTER", "none"}, {"OTEL_SDK_DISABLED", "true"},
	} {
		t.Run(environment[0], func(t *testing.T) {
			if environment[0] != "OTEL_TRACES_SAMPLER" {
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
			}
			t.Setenv(environment[0], environment[1])
			if tracer, err := StartTracing(t.Context(), "test", slog.New(slog.DiscardHandler)); tracer != nil ||
				err != nil {
				t.Fatalf("%v, %v", tracer, err)
			}
		})
	}
	var tracer *Tracer
	ctx, c := t.Context(), &consumer{}
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Header.Set("Traceparent", elsewhere)
	batch := []Message{{Headers: map[string][]string{"ce-id": {"1"}}}}
	log, observers := tracedLog{slog.DiscardHandler}, observed{querySpans{}}
	query, queries := pgx.TraceQueryStartData{SQL: "-- name: test\nSELECT 1"},
		&pgx.Batch{QueuedQueries: []*pgx.QueuedQuery{{SQL: "-- name: test\nSELECT 1"}}}
	for name, f := range map[string]func(){
		"Start": func() { _, span := tracer.Start(ctx, "test", trace.SpanKindInternal); span.End() },
		"Continue": func() {
			_, span := tracer.Continue(WithTraceParent(ctx, ""), "test", trace.SpanKindInternal)
			span.End()
		},
		"TraceParent": func() { _ = TraceParent(ctx) },
		"request":     func() { _, span := traceRequest(r); endRequest(span, http.StatusOK) },
		"messages":    func() { _, _ = c.traceMessages(ctx, batch) },
		"query": func() {
			observers.TraceQueryEnd(observers.TraceQueryStart(ctx, nil, query), nil, pgx.TraceQueryEndData{})
		},
		"batch": func() {
			observers.TraceBatchEnd(observers.TraceBatchStart(ctx, nil, pgx.TraceBatchStartData{Batch: queries}), nil,
				pgx.TraceBatchEndData{})
		},
		"log":   func() { _ = log.Handle(ctx, slog.Record{}) },
		"Close": func() { _ = tracer.Close(ctx) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestTracingMistakesAreReported(t *testing.T) {
	for name, c := range map[string]struct{ variable, value, want string }{
		"grpc": {"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc",
			"OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf"},
		"JSON, for traces": {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json",
			"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: must be http/protobuf"},
		"another exporter": {"OTEL_TRACES_EXPORTER", "jaeger", "OTEL_TRACES_EXPORTER: must be otlp or none"},
		"an address": {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318",
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must be http://host:port"},
		"no URL": {"OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@ x",
			"OTEL_EXPORTER_OTLP_ENDPOINT: must be http://host:port"},
		"attributes":   {"OTEL_RESOURCE_ATTRIBUTES", "nonsense", ""},
		"also allowed": {"OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(c.variable, c.value)
			var cfg Common
			err := LoadConfig(func(string) string { return "" }, &cfg)
			if c.want == "" != (err == nil) || err != nil &&
				(!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("configuration: %v", err)
			}
			tracer, err := StartTracing(t.Context(), "test", slog.New(slog.DiscardHandler))
			if wrong := c.want != "" || name == "attributes"; wrong != (err != nil) || wrong != (tracer == nil) {
				t.Errorf("tracing starts: %v", err)
			}
			_ = tracer.Close(t.Context())
		})
	}
}

// A collector that hangs delays neither requests, even more of them than its queue can hold, nor the end of the
// process.
func TestCollectorThatHangs(t *testing.T) {
	asked, release := make(chan string, 1000), make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- r.URL.Path + " " + r.Header.Get("Authorization")
		<-release
	}))
	defer hanging.Close()
	defer close(release)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", hanging.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=secret,malformed-secret")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	var text bytes.Buffer
	tracer, err := StartTracing(t.Context(), "test", NewLogger(&text, "json", "debug"))
	if err != nil {
		t.Fatal(err)
	}
	answer := served(ServerConfig{Tracer: tracer, Public: true}, http.StatusCreated)
	answer(httptest.NewRequest(http.MethodPost, "/", http.NoBody))
	select {
	case got := <-asked:
		if got != "/v1/traces secret" {
			t.Errorf("the collector is asked with %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is exported")
	}
	for range 10_000 {
		if w := answer(httptest.NewRequest(http.MethodPost, "/", http.NoBody)); w.Code != http.StatusCreated {
			t.Fatal(w.Code)
		}
	}
	began := time.Now()
	if err := tracer.Close(t.Context()); err != nil {
		t.Errorf("the end fails: %v", err)
	}
	if took := time.Since(began); took > 5*flushLimit {
		t.Errorf("the end took %s", took)
	}
	if n := strings.Count(text.String(), "\n"); n != 1 || !strings.Contains(text.String(), "the last spans are lost") ||
		strings.Contains(text.String(), "secret") {
		t.Errorf("%d lines:\n%s", n, text.String())
	}
}

// served returns a function that sends requests to a server whose handler answers them with a status.
func served(cfg ServerConfig, status int) func(*http.Request) *httptest.ResponseRecorder {
	log := slog.New(slog.DiscardHandler)
	cfg.Log = log
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/things/{capability}", Adapt(log, nil, func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(status)
		return nil
	}))
	mux.HandleFunc("/", Adapt(log, nil,
		func(w http.ResponseWriter, _ *http.Request) error { return WriteJSON(w, status, "test") }))
	cfg.Handler = mux
	s := NewServer(cfg)
	return func(r *http.Request) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		base := s.http.BaseContext(nil)
		if span := trace.SpanFromContext(r.Context()); span.SpanContext().IsValid() {
			base = trace.ContextWithSpan(base, span)
		}
		s.http.Handler.ServeHTTP(w, r.WithContext(base))
		return w
	}
}

func TestSpansOfRequests(t *testing.T) {
	tracer, spans := recording(t)
	within, outer := tracer.Start(context.Background(), "page", trace.SpanKindServer)
	for name, c := range map[string]struct {
		public         bool
		method, parent string
		ctx            context.Context
		status         int
		name           string
		continued      bool // it is part of the client's trace
		linked         bool
	}{
		"a stranger's trace is linked": {true, "GET", elsewhere, context.Background(), 200,
			"GET /v1/things/{capability}", false, true},
		"one that wants no span has none": {true, "GET", unsampled, context.Background(), 200,
			"GET /v1/things/{capability}", false, true},
		"a malformed one is nobody's": {true, "GET", "secret", context.Background(), 200, "GET /v1/things/{capability}",
			false, false},
		"an operator's is continued": {false, "DELETE", elsewhere, context.Background(), 202,
			"DELETE /v1/things/{capability}", true, false},
		"a page's call is its child": {true, "POST", elsewhere, within, 200, "POST /v1/things/{capability}", false,
			false},
	} {
		spans.Reset()
		r := httptest.NewRequestWithContext(c.ctx, c.method, "/v1/things/secret?secret=secret",
			strings.NewReader("secret"))
		r.Header.Set("Traceparent", c.parent)
		r.Header.Set("User-Agent", "secret")
		served(ServerConfig{Tracer: tracer, Public: c.public}, c.status)(r)
		if len(spans.GetSpans()) != 1 {
			t.Errorf("%s: %d spans", name, len(spans.GetSpans()))
			continue
		}
		s := spans.GetSpans()[0]
		theirs := trace.SpanContextFromContext(WithTraceParent(context.Background(), elsewhere))
		if s.Name != c.name || s.SpanKind != trace.SpanKindServer ||
			(s.Status.Code == codes.Error) != (c.status >= 500) {
			t.Errorf("%s: %s, kind %v, status %v", name, s.Name, s.SpanKind, s.Status)
		}
		if continued := s.Parent.SpanID() == theirs.SpanID(); continued != c.continued ||
			continued != (s.SpanContext.TraceID() == theirs.TraceID()) {
			t.Errorf("%s: continued %v", name, continued)
		}
		if child := s.Parent.SpanID() == outer.SpanContext().SpanID(); child != (c.ctx == within) {
			t.Errorf("%s: child of the page %v", name, child)
		}
		if linked := len(s.Links) == 1 && s.Links[0].SpanContext.SpanID() == theirs.SpanID(); linked != c.linked {
			t.Errorf("%s: links %v", name, s.Links)
		}
		for _, a := range s.Attributes {
			if strings.Contains(strings.ToLower(a.Value.String()), "secret") {
				t.Errorf("%s: %s says %s", name, a.Key, a.Value.String())
			}
		}
	}
}

// Spans of queries have the query's name and, after a failure, its code. There are none outside a span.
func TestSpansOfQueries(t *testing.T) {
	url := testenv.Database(t, "none", func(context.Context, string) error { return nil })
	pool, err := OpenPool(t.Context(), NewSecret(url), Common{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	tracer, spans := recording(t)
	ctx, parent := tracer.Start(t.Context(), "request", trace.SpanKindServer)
	b := new(pgx.Batch)
	b.Queue("-- name: first\nSELECT 1")
	b.Queue("-- name: second\nSELECT 1")
	_, failed := pool.Exec(ctx, "-- name: refused\nSELECT $1::text::int", "secret")
	_, unnamed := pool.Exec(ctx, "SELECT 1")
	_, outside := pool.Exec(t.Context(), "-- name: outside\nSELECT 1")
	_, elsewhere := pool.Exec(WithTraceParent(t.Context(), elsewhere), "-- name: elsewhere\nSELECT 1")
	if err := errors.Join(pool.SendBatch(ctx, b).Close(), unnamed, outside, elsewhere); err != nil || failed == nil {
		t.Fatal(err, failed)
	}
	var names []string
	for _, s := range spans.GetSpans() {
		names = append(names, s.Name)
		if s.Parent.SpanID() != parent.SpanContext().SpanID() ||
			(s.Name == "refused") != (s.Status.Code == codes.Error) || s.Status.Description != "" {
			t.Errorf("%s: parent %v, %v", s.Name, s.Parent.SpanID(), s.Status)
		}
		for _, a := range s.Attributes {
			if strings.Contains(a.Value.String(), "secret") || a.Key == "error.type" && a.Value.AsString() != "22P02" {
				t.Errorf("%s: %s says %s", s.Name, a.Key, a.Value.String())
			}
		}
	}
	if !slices.Equal(names, []string{"refused", "first"}) {
		t.Errorf("spans of %v", names)
	}
}

// Each message of a batch has a span below the sender's span, and its header names that span for those who read
// it.
func TestSpansOfMessages(t *testing.T) {
	tracer, spans := recording(t)
	c := &consumer{cfg: ConsumerConfig{Durable: "reader", Tracer: tracer}}
	message := func(parent ...string) Message {
		return Message{Subject: "a.b", Headers: map[string][]string{"ce-id": {"1"}, "traceparent": parent}}
	}
	batch := []Message{message(elsewhere), message("secret"), {Subject: "a.b"}, message(elsewhere)}
	ctx, begun := c.traceMessages(t.Context(), batch)
	for _, s := range begun {
		s.End()
	}
	all := spans.GetSpans()
	if len(all) != 2 || TraceParent(ctx) != "" {
		t.Fatalf("%d spans, and the batch is in %q", len(all), TraceParent(ctx))
	}
	for i, m := range []Message{batch[0], batch[3]} {
		s := all[i]
		if s.Name != "process a.b" || !strings.Contains(elsewhere, s.Parent.SpanID().String()) ||
			!strings.Contains(m.Headers["traceparent"][0], s.SpanContext.SpanID().String()) {
			t.Errorf("%s below %v, and the message says %v", s.Name, s.Parent, m.Headers)
		}
	}
	if got := batch[1].Headers["traceparent"]; !slices.Equal(got, []string{""}) {
		t.Errorf("a malformed context is passed on: %q", got)
	}
	alone := []Message{message(elsewhere)}
	if ctx, _ := c.traceMessages(t.Context(), alone); TraceParent(ctx) != alone[0].Headers["traceparent"][0] {
		t.Errorf("a lone message is handled in %q", TraceParent(ctx))
	}
}

func TestLogNamesTheSpan(t *testing.T) {
	var text bytes.Buffer
	ctx := WithTraceParent(t.Context(), elsewhere)
	for _, format := range []string{"json", "text"} {
		text.Reset()
		log := NewLogger(&text, format, "info")
		log.With("with", 1).WarnContext(ctx, "one")
		log.WarnContext(t.Context(), "none")
		one, none, _ := strings.Cut(text.String(), "\n")
		if !strings.Contains(one, "0af7651916cd43dd8448eb211c80319c") || !strings.Contains(one, "b7ad6b7169203331") ||
			strings.Contains(none, "trace_id") {
			t.Errorf("%s:\n%s", format, text.String())
		}
	}
}

// Export errors are logged at most once a minute.
func TestComplaintsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines atomic.Int64
		complain := exportErrors(slog.New(slog.NewTextHandler(writer(func(string) { lines.Add(1) }), nil)))
		for i := range 10 {
			for range 100 {
				complain(errors.New("away"))
			}
			if n := lines.Load(); n != int64(i+1) {
				t.Fatalf("%d lines after %d minutes", n, i)
			}
			<-time.After(exportErrorPause)
		}
	})
}

type writer func(string)

func (w writer) Write(b []byte) (int, error) { w(string(b)); return len(b), nil }
