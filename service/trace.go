package service

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox/outboxotel"
)

const (
	scope = "github.com/signup-saga/signup-saga/service"
	// flushLimit is how long a stopping process waits for the collector.
	flushLimit = 2 * time.Second
	// exportErrorPause is the shortest time between two log lines about the collector.
	exportErrorPause = time.Minute
)

// Tracer makes spans. A nil Tracer makes none, at no cost. People outside may read spans, so a span contains
// only ids, states, and names of queries and routes: never a path, a parameter, the text of an error, or
// anything else that a client has sent. Safe for concurrent use.
type Tracer struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
	close    func(context.Context)
}

// NewTracer returns a tracer for a provider. The owner of the provider exports the spans.
func NewTracer(provider trace.TracerProvider) *Tracer {
	return &Tracer{provider, provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)), func(context.Context) {}}
}

// StartTracing returns a tracer that exports by OTLP over HTTP as the standard environment variables of
// OpenTelemetry say; the SDK reads most of them. It returns nil without an endpoint. name is the service's name
// if they give none. While the collector is unavailable, spans are lost, and at most one line per minute is
// logged.
func StartTracing(ctx context.Context, name string, log *slog.Logger) (*Tracer, error) {
	var check Checks
	if !tracingWanted(&check) {
		return nil, check.Err()
	}
	otel.SetLogger(logr.Discard()) // it would print values that it cannot parse, such as secret headers
	otel.SetErrorHandler(exportErrors(log))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	res, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName(name)), resource.WithHost(),
		resource.WithProcessPID(), resource.WithFromEnv())
	if err != nil {
		return nil, errors.Join(err, exporter.Shutdown(ctx))
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	t := NewTracer(provider)
	t.close = func(ctx context.Context) {
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("the last spans are lost", "error", err)
		}
	}
	return t, nil
}

// tracingWanted reports whether the environment turns tracing on, and checks it.
func tracingWanted(check *Checks) bool {
	either := func(signal, all string) (name, value string) {
		if value = os.Getenv(signal); value != "" {
			return signal, value
		}
		return all, os.Getenv(all)
	}
	exporter := os.Getenv("OTEL_TRACES_EXPORTER")
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || exporter == "none" {
		return false
	}
	known := exporter == "" || exporter == "otlp"
	check.Require(known, "OTEL_TRACES_EXPORTER: must be otlp or none")
	name, protocol := either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	spoken := protocol == "" || protocol == "http/protobuf"
	check.Require(spoken, name+": must be http/protobuf")
	name, endpoint := either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	u, err := url.Parse(endpoint)
	valid := endpoint == "" || err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
	check.Require(valid, name+": must be http://host:port or https://host:port")
	return endpoint != "" && known && spoken && valid
}

// exportErrors logs what the SDK reports, at most one line per minute.
func exportErrors(log *slog.Logger) otel.ErrorHandlerFunc {
	var mu sync.Mutex
	var unsaid int
	var next time.Time
	return func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Before(next) {
			unsaid++
		} else {
			log.Warn("tracing", "error", err, "unsaid", unsaid)
			unsaid, next = 0, now.Add(exportErrorPause)
		}
	}
}

// Close exports the remaining spans, for at most 2 s, and never fails: spans may be lost. It fits
// [Process.Closers].
func (t *Tracer) Close(ctx context.Context) error {
	if t != nil {
		ctx, cancel := context.WithTimeout(ctx, flushLimit)
		defer cancel()
		t.close(ctx)
	}
	return nil
}

// off is the span of what is not traced.
var off trace.Span = noop.Span{}

// Start begins a span as a child of the one in ctx, or the first one of a trace.
func (t *Tracer) Start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if t == nil {
		return ctx, off
	}
	return t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
}

// Continue begins a span as a child of the one in ctx. If ctx has none, it begins none.
func (t *Tracer) Continue(ctx context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, off
	}
	return t.Start(ctx, name, kind)
}

// TraceParent returns the trace context in ctx as a W3C traceparent, for storing or sending; "" if there is
// none.
func TraceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// WithTraceParent returns ctx with the trace context that TraceParent returned. If that is "" or malformed, it
// returns ctx itself.
func WithTraceParent(ctx context.Context, traceParent string) context.Context {
	if traceParent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceParent})
}

// Link returns a link to the span that TraceParent returned.
func Link(traceParent string) trace.Link {
	return trace.LinkFromContext(WithTraceParent(context.Background(), traceParent))
}

type serverKey struct{}

// traceRequest begins a span for a request to a [Server] with a tracer. If the context already has a span,
// because the request was made within this process, the new span is its child. On a public server, clients
// choose neither trace ids nor what is sampled: their trace is only linked.
func traceRequest(r *http.Request) (*http.Request, trace.Span) {
	cfg, ok := r.Context().Value(serverKey{}).(*ServerConfig)
	if !ok {
		return r, off
	}
	ctx, client := r.Context(), r.Header.Get("Traceparent")
	var options []trace.SpanStartOption
	if !trace.SpanContextFromContext(ctx).IsValid() && client != "" {
		if !cfg.Public {
			ctx = WithTraceParent(ctx, client)
		} else if link := Link(client); link.SpanContext.IsValid() {
			options = append(options, trace.WithLinks(link))
		}
	}
	method, name := r.Method, r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions:
	default:
		method, name = "_OTHER", "HTTP"
	}
	attributes := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(method)}
	if r.Pattern != "" {
		attributes = append(attributes, semconv.HTTPRoute(r.Pattern))
		name += " " + r.Pattern
	}
	ctx, span := cfg.Tracer.tracer.Start(ctx, name,
		append(options, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes...))...)
	return r.WithContext(ctx), span
}

func endRequest(span trace.Span, status int) {
	if span.IsRecording() {
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}

// traceMessages begins a span for each message that carries a trace, as a child of the sender's span, and puts
// the new span into the message's header. If the batch has only one message, the returned context has its span.
func (c *consumer) traceMessages(ctx context.Context, batch []Message) (context.Context, []trace.Span) {
	var spans []trace.Span
	for _, m := range batch {
		if c.cfg.Tracer == nil || m.Headers[contract.HeaderTraceParent] == nil {
			continue
		}
		own, span := c.cfg.Tracer.Continue(outboxotel.Extract(ctx, m.Headers), "process "+m.Subject,
			trace.SpanKindConsumer)
		span.SetAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationName("process"),
			semconv.MessagingOperationTypeProcess,
			semconv.MessagingDestinationName(m.Subject), semconv.MessagingConsumerGroupName(c.cfg.Durable),
			semconv.MessagingMessageID(strings.Join(m.Headers[contract.HeaderID], "")))
		m.Headers[contract.HeaderTraceParent] = []string{TraceParent(own)}
		spans = append(spans, span)
		if len(batch) == 1 {
			ctx = own
		}
	}
	return ctx, spans
}

// querySpans makes a span for each named query that runs within a span of this process.
type querySpans struct{}

type queryKey struct{}

func (querySpans) started(ctx context.Context, _ *pgx.Conn, sql string) context.Context {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx
	}
	name := statementName(sql)
	if name == "" {
		return ctx
	}
	ctx, span := NewTracer(parent.TracerProvider()).tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(semconv.DBSystemNamePostgreSQL, semconv.DBQuerySummary(name)))
	return context.WithValue(ctx, queryKey{}, span)
}

func (querySpans) ended(ctx context.Context, err error) {
	span, ok := ctx.Value(queryKey{}).(trace.Span)
	if !ok {
		return
	}
	if err != nil {
		code := "_OTHER"
		if pg := new(pgconn.PgError); errors.As(err, &pg) {
			code = pg.Code
		}
		span.SetAttributes(semconv.ErrorTypeKey.String(code))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// tracedLog adds the trace id and span id in a record's context to the record.
type tracedLog struct{ slog.Handler }

// Handle implements slog.Handler.
func (h tracedLog) Handle(ctx context.Context, r slog.Record) error {
	if s := trace.SpanContextFromContext(ctx); s.IsValid() {
		r.AddAttrs(slog.String("trace_id", s.TraceID().String()), slog.String("span_id", s.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h tracedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return tracedLog{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h tracedLog) WithGroup(name string) slog.Handler { return tracedLog{h.Handler.WithGroup(name)} }
