package store

import (
	"context"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/service"
)

// trace starts the span of a change, and makes the events that follow continue its trace. A reply belongs to
// the trace of its message, a timer to the trace that the saga keeps. A retry or a withdrawal belongs to the
// trace of its request, or starts a new one; the saga keeps that trace from then on, and a link leads to the
// previous one.
func (s *Store) trace(ctx context.Context, b *pgx.Batch, c Change, r *Record, outcome saga.Outcome) trace.Span {
	wanted := c.Event.Kind == saga.Retried || c.Event.Kind == saga.Withdraw
	start, before := s.Tracer.Continue, r.TraceParent
	switch {
	case wanted:
		start = s.Tracer.Start
	case c.Event.Kind == saga.TimerDue:
		ctx = service.WithTraceParent(ctx, before)
	default:
		ctx = service.WithTraceParent(ctx, c.TraceParent)
	}
	ctx, span := start(ctx, "saga "+string(c.Event.Kind), trace.SpanKindInternal)
	if wanted {
		for _, cause := range []string{before, c.TraceParent} {
			if link := service.Link(cause); link.SpanContext.IsValid() {
				span.AddLink(link)
			}
		}
	}
	span.SetAttributes(attribute.String("saga.id", r.ID), attribute.String("saga.state", string(r.State)),
		attribute.Int64("saga.generation", r.Generation), attribute.String("saga.outcome", string(outcome)))
	if own := service.TraceParent(ctx); own != "" && outcome != saga.Unchanged && outcome != saga.Refused {
		r.TraceParent = own
	}
	if wanted && outcome == saga.Advanced && r.TraceParent != before {
		b.Queue("-- name: keepTrace\nUPDATE signup_saga SET traceparent = $2 WHERE id = $1", r.ID, r.TraceParent)
	}
	return span
}
