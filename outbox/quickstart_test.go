package outbox_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/signup-saga/signup-saga/outbox"
)

func TestREADMEShowsCompiledCode(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("quickstart_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(readme), "```go\n")
	shown, _, found := strings.Cut(shown, "```\n")
	_, compiled, _ := strings.Cut(string(source), "// README.md shows the rest of this file.\n\n")
	if !found || !strings.HasSuffix(shown, compiled) {
		t.Errorf("the quick start is\n%s\nbut it should end with what is compiled:\n%s", shown, compiled)
	}
}

// README.md shows the rest of this file.

func newRelay(pool *pgxpool.Pool, nc *nats.Conn) (*outbox.Relay, error) {
	return outbox.NewRelay(outbox.RelayConfig{
		Lane:          "essential",
		Pool:          pool,
		NATS:          nc,
		Stream:        outbox.StreamConfig("ORDERS", []string{"orders.>"}, 1),
		Source:        "/shop",
		SubjectPrefix: "orders.",
	})
}

func payOrder(ctx context.Context, pool *pgxpool.Pool, relay *outbox.Relay, order int) error {
	return outbox.InTx(ctx, pool, relay.Wake, func(tx pgx.Tx) error {
		var event string
		err := tx.QueryRow(ctx, "UPDATE orders SET state = 'paid' WHERE id = $1 RETURNING gen_random_uuid()::text",
			order).Scan(&event)
		if err != nil {
			return err
		}
		return outbox.Append(ctx, tx, outbox.Event{
			Lane:    "essential",
			ID:      event,
			Key:     fmt.Sprintf("order-%d", order),
			Type:    "paid",
			Payload: fmt.Appendf(nil, `{"order": %d}`, order),
		})
	})
}
