package outboxprom_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/internal/relaytest"
	"github.com/signup-saga/signup-saga/outbox/outboxprom"
)

// Connect metrics: one call per lane, and its hooks passed to the relay.
func Example() {
	t := &relaytest.Example{}
	defer t.End()
	ctx, pool, broker := relaytest.Servers(t)
	registry := prometheus.NewRegistry()
	metrics, err := outboxprom.New("essential", pool, registry)
	if err != nil {
		fmt.Println(err)
		return
	}
	published := make(chan int, 1)
	own := outbox.Hooks{Published: func(batch []*nats.Msg, _ time.Time) { published <- len(batch) }}
	stop := relaytest.Start(ctx, t, pool, relaytest.Connect(t, broker), metrics.Hooks(own)) // RelayConfig.Hooks
	relaytest.Append(ctx, t, pool, relaytest.Event(1), relaytest.Event(2))
	<-published
	stop()

	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(page.Body.String()) {
		if strings.HasPrefix(line, "outbox_") && !strings.HasPrefix(line, "outbox_publish_duration") {
			fmt.Print(line)
		}
	}
	// Output:
	// outbox_appended_events_total{lane="essential"} 2
	// outbox_broker_losses_total{lane="essential"} 0
	// outbox_dead_events{lane="essential"} 0
	// outbox_foreign_messages_total{lane="essential"} 0
	// outbox_lag_events{lane="essential"} 0
	// outbox_lag_seconds{lane="essential"} 0
	// outbox_leading{lane="essential"} 0
	// outbox_open_gaps{lane="essential"} 0
	// outbox_published_batches_total{lane="essential"} 1
	// outbox_published_events_total{lane="essential"} 2
	// outbox_recovered_events_total{lane="essential"} 0
	// outbox_refused_batches_total{lane="essential"} 0
	// outbox_status_up{lane="essential"} 1
	// outbox_waiting_seconds{lane="essential",reason="database"} 0
	// outbox_waiting_seconds{lane="essential",reason="lane"} 0
	// outbox_waiting_seconds{lane="essential",reason="nats"} 0
	// outbox_waiting_seconds{lane="essential",reason="stream"} 0
}
