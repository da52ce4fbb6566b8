package outbox

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

const lane = "essential"

// bench is a database with one lane, a broker, and helpers to inspect both.
type bench struct {
	t      testing.TB
	pool   *pgxpool.Pool
	nats   *testenv.NATSServer
	stream string
	log    *lockedBuffer // what the relays logged
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func migrate(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	files, err := fs.Glob(Migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	for _, file := range files {
		sql, err := fs.ReadFile(Migrations, file)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, string(sql)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	_, err = conn.Exec(ctx, "SELECT outbox_create_lane('essential')")
	return err
}

// newBench also makes the test run in parallel: tests spend most of their time waiting.
func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	return benchOf(t, testenv.Database(t, "outbox", migrate), testenv.NATS(t), "MEMBER_ESSENTIAL")
}

func benchOf(t *testing.T, database string, broker *testenv.NATSServer, stream string) *bench {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &bench{t: t, pool: pool, nats: broker, stream: stream, log: new(lockedBuffer)}
}

func (b *bench) connect() *nats.Conn {
	b.t.Helper()
	nc, err := nats.Connect(b.nats.URL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

func (b *bench) relay(hooks Hooks) *Relay {
	b.t.Helper()
	c := b.config()
	c.Hooks = hooks
	return b.relayOf(c)
}

func (b *bench) config() RelayConfig {
	b.t.Helper()
	return RelayConfig{
		Lane: lane, Pool: b.pool, NATS: b.connect(), Stream: StreamConfig(b.stream, []string{b.prefix() + ">"}, 1),
		Source: "/test", SubjectPrefix: b.prefix(),
		Log: slog.New(slog.NewTextHandler(io.MultiWriter(b.t.Output(), b.log), nil)),
	}
}

func (b *bench) relayOf(c RelayConfig) *Relay {
	b.t.Helper()
	r, err := NewRelay(c)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) prefix() string {
	if b.stream == "MEMBER_ESSENTIAL" {
		return "signup.essential."
	}
	return strings.ToLower(b.stream) + "."
}

// start runs a relay until the test ends or stop is called.
func (b *bench) start(hooks Hooks) (r *Relay, stop func()) {
	b.t.Helper()
	r = b.relay(hooks)
	return r, b.run(r)
}

func (b *bench) run(r *Relay) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(stop)
	return stop
}

func event(key string, i int) Event {
	return Event{Lane: lane, ID: newID(), Key: key, Type: "storage.provision",
		Headers: map[string]string{"ce-sagaid": "s-" + key}, Payload: fmt.Appendf(nil, `{"i":%d}`, i)}
}

func (b *bench) append(tx pgx.Tx, events ...Event) []string {
	b.t.Helper()
	if err := Append(b.t.Context(), tx, events...); err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range events {
		out = append(out, e.ID)
	}
	return out
}

// commit appends n events, each in a transaction of its own.
func (b *bench) commit(n int) []string {
	b.t.Helper()
	var out []string
	for i := range n {
		tx := b.begin()
		out = append(out, b.append(tx, event(fmt.Sprint(i%7), i))...)
		b.end(tx.Commit)
	}
	return out
}

func (b *bench) begin() pgx.Tx {
	b.t.Helper()
	tx, err := b.pool.Begin(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // closing the pool waits for it
	return tx
}

func (b *bench) end(end func(context.Context) error) {
	b.t.Helper()
	if err := end(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// exec runs one statement in a transaction or the pool.
func (b *bench) exec(db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, sql string, args ...any) {
	b.t.Helper()
	if _, err := db.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

// position returns the newest checkpoint.
func (b *bench) position() position {
	b.t.Helper()
	p, _, err := checkpoints{pool: b.pool, lane: lane}.newest(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// stored returns the event ids in the stream, in order, duplicates included.
func (b *bench) stored() []string {
	var out []string
	for _, m := range b.messages() {
		out = append(out, m.Header.Get("ce-id"))
	}
	return out
}

// messages returns what the stream holds; nothing while the broker is unreachable.
func (b *bench) messages() []*jetstream.RawStreamMsg {
	nc, err := nats.Connect(b.nats.URL, nats.Timeout(time.Second))
	if err != nil {
		return nil
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, b.stream)
	if err != nil {
		return nil
	}
	var out []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil {
			b.t.Fatalf("message %d: %v", seq, err)
		}
		out = append(out, m)
	}
	return out
}

func (b *bench) eventually(what string, cond func() bool) {
	b.t.Helper()
	testenv.Eventually(b.t, 20*time.Second, what, cond)
}

// published waits until the lane has no unpublished events.
func (b *bench) published() {
	b.t.Helper()
	b.eventually("an empty lane", func() bool {
		s, err := ReadStatus(b.t.Context(), b.pool, lane)
		return err == nil && s.Lag == 0
	})
}

func (b *bench) wantExactly(want []string) {
	b.t.Helper()
	got := b.stored()
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		b.t.Errorf("stream holds %d messages, %d distinct, want %d, each once", len(got), len(slices.Compact(got)),
			len(want))
	}
}

// wantTimes checks that the stream holds exactly want, in which an event that is published twice occurs twice.
func (b *bench) wantTimes(want []string) {
	b.t.Helper()
	if got := b.stored(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		b.t.Errorf("stream holds %d messages, want %d, each as often as it was to be published", len(got), len(want))
	}
}

// wantDistinct is wantExactly where events may have been published again.
func (b *bench) wantDistinct(want []string) {
	b.t.Helper()
	got := slices.Compact(slices.Sorted(slices.Values(b.stored())))
	if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		b.t.Errorf("stream %s holds %d distinct events, want %d", b.stream, len(got), len(want))
	}
}

func (b *bench) wantStatus(lag, dead int64) {
	b.t.Helper()
	if s, err := ReadStatus(b.t.Context(), b.pool, lane); err != nil || s.Lag != lag || s.Dead != dead {
		b.t.Errorf("%+v, %v; want lag %d and %d dead", s, err, lag, dead)
	}
}

// age makes all checkpoints and events older by the given durations.
func (b *bench) age(checkpoints, events time.Duration) {
	b.t.Helper()
	b.exec(b.pool, "UPDATE outbox_checkpoint_essential SET published_at = published_at - $1::interval", checkpoints)
	b.exec(b.pool, "UPDATE outbox_event_essential SET created_at = created_at - $1::interval", events)
}

func (b *bench) noGaps() {
	b.t.Helper()
	b.eventually("no open gap", func() bool {
		p, _, err := checkpoints{pool: b.pool, lane: lane}.newest(b.t.Context())
		return err == nil && len(p.gaps) == 0
	})
}
