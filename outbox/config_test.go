package outbox

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// good returns a configuration that NewRelay accepts, without servers.
func good(t *testing.T) RelayConfig {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), "postgres://nowhere.invalid/shop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return RelayConfig{
		Lane: lane, Pool: pool, NATS: new(nats.Conn), Stream: StreamConfig("ORDERS", []string{"orders.>"}, 1),
		Source: "/shop", SubjectPrefix: "orders.",
	}
}

func TestNewRelayNamesTheMistakes(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*RelayConfig)
		want   string // empty: it is valid
	}{
		"nothing":         {func(*RelayConfig) {}, ""},
		"no pool":         {func(c *RelayConfig) { c.Pool = nil }, "Pool is nil: give"},
		"no connection":   {func(c *RelayConfig) { c.NATS = nil }, "NATS is nil: give"},
		"no lane":         {func(c *RelayConfig) { c.Lane = "" }, `Lane is "": it must match`},
		"lane in caps":    {func(c *RelayConfig) { c.Lane = "Essential" }, `Lane is "Essential": it must match`},
		"lane with dash":  {func(c *RelayConfig) { c.Lane = "non-essential" }, `Lane is "non-essential"`},
		"long lane":       {func(c *RelayConfig) { c.Lane = strings.Repeat("a", 41) }, "Lane is"},
		"no stream":       {func(c *RelayConfig) { c.Stream.Name = "" }, `Stream.Name is "":`},
		"stream dotted":   {func(c *RelayConfig) { c.Stream.Name = "a.b" }, `Stream.Name is "a.b":`},
		"no subjects":     {func(c *RelayConfig) { c.Stream.Subjects = nil }, "Stream.Subjects is empty"},
		"no source":       {func(c *RelayConfig) { c.Source = "" }, `Source is "": give`},
		"two-line source": {func(c *RelayConfig) { c.Source = "/a\n/b" }, "Source is"},
		"no prefix":       {func(c *RelayConfig) { c.SubjectPrefix = "" }, `SubjectPrefix is "": it must be`},
		"no dot":          {func(c *RelayConfig) { c.SubjectPrefix = "orders" }, `SubjectPrefix is "orders":`},
		"only a dot":      {func(c *RelayConfig) { c.SubjectPrefix = "." }, "SubjectPrefix is"},
		"two dots":        {func(c *RelayConfig) { c.SubjectPrefix = "orders.." }, "SubjectPrefix is"},
		"wildcard":        {func(c *RelayConfig) { c.SubjectPrefix = "orders.*." }, "SubjectPrefix is"},
		"space":           {func(c *RelayConfig) { c.SubjectPrefix = "or ders." }, "SubjectPrefix is"},
		"another subject": {func(c *RelayConfig) { c.SubjectPrefix = "bills." }, `subjects ["orders.>"] do not cover`},
		"longer prefix":   {func(c *RelayConfig) { c.SubjectPrefix = "orders.eu." }, ""},
		"prefix too long": {func(c *RelayConfig) {
			c.Stream.Subjects, c.SubjectPrefix = []string{"orders.*"}, "orders.eu."
		}, "do not cover"},
		"listed subjects": {func(c *RelayConfig) { c.Stream.Subjects = []string{"bills.paid", "orders.paid"} }, ""},
		"star":            {func(c *RelayConfig) { c.Stream.Subjects = []string{"*.paid"} }, ""},
		"window":          {func(c *RelayConfig) { c.ReplayWindow = -1 }, "ReplayWindow is -1ns: it must not"},
		"retention":       {func(c *RelayConfig) { c.Retention = -time.Hour }, "Retention is -1h0m0s"},
		"spacing":         {func(c *RelayConfig) { c.Spacing = -1 }, "Spacing is -1ns"},
		"bare stream": {func(c *RelayConfig) {
			c.Stream = jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}
		}, "Stream cannot carry an outbox: it refuses atomic batches: set allow_atomic"},
		"external stream": {func(c *RelayConfig) {
			c.Stream, c.ExternalStream = jetstream.StreamConfig{Name: "ORDERS"}, true
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := good(t)
			tt.change(&c)
			_, err := NewRelay(c)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	_, err := NewRelay(RelayConfig{})
	for _, field := range []string{"Lane", "Pool", "NATS", "Stream.Name", "Stream.Subjects", "Source",
		"SubjectPrefix"} {
		if err == nil || !strings.Contains(err.Error(), "outbox: "+field+" ") {
			t.Errorf("an empty configuration: %v, want all at once, %s among them", err, field)
		}
	}
}

func TestNilLogIsTheDefault(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	r, err := NewRelay(good(t))
	if err != nil {
		t.Fatal(err)
	}
	r.Log.Info("hello")
	if !strings.Contains(log.String(), "msg=hello lane=essential stream=ORDERS") {
		t.Errorf("the default logger got %q", log.String())
	}
}

func TestNothingIsDoneWithoutADatabase(t *testing.T) {
	ctx, pool := t.Context(), (*pgxpool.Pool)(nil)
	status := func(q Querier) error {
		_, err := ReadStatus(ctx, q, lane)
		return err
	}
	for name, err := range map[string]error{
		"Append":                Append(ctx, nil, event("k", 1)),
		"InTx":                  InTx(ctx, nil, nil, nil),
		"InTx with a nil pool":  InTx(ctx, pool, nil, nil),
		"ReadStatus":            status(nil),
		"ReadStatus, nil pool":  status(pool),
		"Requeue":               Requeue(ctx, nil, lane, 1),
		"ReplaySince":           ReplaySince(ctx, nil, lane, time.Time{}),
		"ReplaySince, nil pool": ReplaySince(ctx, pool, lane, time.Time{}),
	} {
		if err == nil || !strings.Contains(err.Error(), "is nil: open it first") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
