package outboxotel_test

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/internal/relaytest"
	"github.com/signup-saga/signup-saga/outbox/outboxotel"
)

// Connect traces: the request, the relay and the consumer become one trace.
func Example() {
	t := &relaytest.Example{}
	defer t.End()
	ctx, pool, broker := relaytest.Servers(t)
	spans := tracetest.NewInMemoryExporter() // in production an OTLP exporter, and trace.WithBatcher
	provider := trace.NewTracerProvider(trace.WithSyncer(spans))
	tracer := provider.Tracer("shop")

	// The request.
	request, span := tracer.Start(ctx, "POST /orders")
	e := relaytest.Event(1)
	outboxotel.Inject(request, &e)
	relaytest.Append(request, t, pool, e)
	span.End()

	// The relay.
	published := make(chan *nats.Msg, 1)
	stop := relaytest.Start(ctx, t, pool, relaytest.Connect(t, broker), outboxotel.Hooks(provider, outbox.Hooks{
		Published: func(batch []*nats.Msg, _ time.Time) { published <- batch[0] },
	}))
	m := <-published // as a consumer gets it
	stop()

	// The consumer.
	_, span = tracer.Start(outboxotel.Extract(ctx, m.Header), "process "+m.Subject)
	span.End()

	all := spans.GetSpans()
	for _, s := range all {
		fmt.Println(s.Name, "| same trace:", s.SpanContext.TraceID() == all[0].SpanContext.TraceID(),
			"| child of the request:", s.Parent.SpanID() == all[0].SpanContext.SpanID())
	}
	// Output:
	// POST /orders | same trace: true | child of the request: false
	// publish orders.paid | same trace: true | child of the request: true
	// process orders.paid | same trace: true | child of the request: true
}
