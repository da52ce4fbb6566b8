// Package outboxotel carries W3C trace context through the outbox, and makes OpenTelemetry spans of what a relay
// publishes.
//
// A producer calls [Inject] before it appends an event, its relay uses [Hooks], and a consumer calls [Extract].
// The message carries the context of the span that appended the event, because the context is fixed when that
// transaction commits. The spans of the relay and of the consumers are therefore siblings, children of that
// span:
//
//	POST /orders ─┬─ publish orders.paid   (relay: [Hooks])
//	              └─ process orders.paid   (consumer: started in what Extract returns)
//
// Baggage is not carried: appended events are kept for days.
package outboxotel

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/signup-saga/signup-saga/outbox"
)

// Names of the headers, in lower case as on the wire. NATS headers are case-sensitive.
const (
	traceParent = "traceparent"
	traceState  = "tracestate"
)

// Inject writes the trace context of ctx, if there is one, into the event's headers, replacing any that is
// there. It copies the map, because events may share one. Without a trace in ctx it does nothing and allocates
// nothing.
func Inject(ctx context.Context, e *outbox.Event) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	headers := make(map[string]string, len(e.Headers)+2)
	maps.Copy(headers, e.Headers)
	delete(headers, traceState) // it belongs to another trace
	propagation.TraceContext{}.Inject(ctx, propagation.MapCarrier(headers))
	e.Headers = headers
}

// Extract returns ctx with the trace context of a message, given its headers: a [nats.Header], or a map of
// strings. It returns ctx itself if the headers hold no trace context, or a malformed one.
func Extract[V string | []string, H ~map[string]V](ctx context.Context, headers H) context.Context {
	parent, ok := headers[traceParent]
	if !ok {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx,
		propagation.MapCarrier{traceParent: joined(parent), traceState: joined(headers[traceState])})
}

// joined returns a header as one line. A traceparent given twice thereby becomes malformed, and so is ignored; a
// tracestate may be given in parts.
func joined[V string | []string](value V) string {
	switch v := any(value).(type) {
	case string:
		return v
	case []string:
		return strings.Join(v, ",")
	}
	return ""
}

// Hooks returns next, which may be empty, with tracing in front of it.
//
// Each published event that carries a trace context becomes a producer span, child of the span that appended it.
// It lasts from when the batch was sent until the broker acknowledged it. A dead event becomes a span with an
// error, the root of its own trace, because its context is not known there; if its batch is tried again, there
// is one such span per attempt.
//
// The relay's goroutine makes the spans: let the provider export in the background, in batches, as the SDK's
// WithBatcher does.
func Hooks(provider trace.TracerProvider, next outbox.Hooks) outbox.Hooks {
	tracer := provider.Tracer("github.com/signup-saga/signup-saga/outbox/outboxotel",
		trace.WithSchemaURL(semconv.SchemaURL))
	h := next
	h.Published = func(batch []*nats.Msg, began time.Time) {
		acked := time.Now()
		for _, m := range batch {
			published(tracer, m, began, acked)
		}
		if next.Published != nil {
			next.Published(batch, began)
		}
	}
	h.Died = func(eventID string, err error) {
		_, span := tracer.Start(context.Background(), "publish", trace.WithNewRoot(),
			trace.WithSpanKind(trace.SpanKindProducer),
			trace.WithAttributes(attributes(eventID, semconv.ErrorType(err))...))
		span.SetStatus(codes.Error, err.Error())
		span.End()
		if next.Died != nil {
			next.Died(eventID, err)
		}
	}
	return h
}

func published(tracer trace.Tracer, m *nats.Msg, began, acked time.Time) {
	ctx := Extract(context.Background(), m.Header)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	id := strings.Join(m.Header["ce-id"], "")
	_, span := tracer.Start(ctx, "publish "+m.Subject, trace.WithTimestamp(began),
		trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attributes(id, semconv.MessagingDestinationName(m.Subject),
			semconv.MessagingMessageBodySize(len(m.Data)))...))
	span.End(trace.WithTimestamp(acked))
}

// attributes returns more and the messaging attributes that every span has.
func attributes(eventID string, more ...attribute.KeyValue) []attribute.KeyValue {
	return append(more, semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationName("publish"),
		semconv.MessagingOperationTypeSend, semconv.MessagingMessageID(eventID))
}
