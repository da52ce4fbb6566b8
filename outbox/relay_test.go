package outbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const lane = "essential"

// bench is a database with one lane, a broker, and what is needed to look at both.
type bench struct {
	t    testing.TB
	pool *pgxpool.Pool
	nats *testenv.NATSServer
}

func migrate(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	sql, err := fs.ReadFile(Migrations, "migrations/00001_lanes.sql")
	if err != nil {
		return err
	}
	up, _, _ := strings.Cut(string(sql), "-- +goose Down")
	_, err = conn.Exec(ctx, up+"; SELECT outbox_create_lane('essential')")
	return err
}

func newBench(t testing.TB) *bench {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testenv.Database(t, "outbox", migrate))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &bench{t: t, pool: pool, nats: testenv.NATS(t)}
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
	r, err := NewRelay(RelayConfig{
		Lane: lane, Pool: b.pool, NATS: b.connect(), Stream: StreamConfig("MEMBER_ESSENTIAL", []string{"signup.essential.>"}, 1),
		Source: "/test", SubjectPrefix: "signup.essential.", Hooks: hooks,
		Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// start runs a relay until the test ends or stop is called.
func (b *bench) start(hooks Hooks) (r *Relay, stop func()) {
	b.t.Helper()
	r = b.relay(hooks)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(stop)
	return r, stop
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

// stored returns the event ids in the stream, in order, however often they occur.
func (b *bench) stored() []string {
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
	s, err := js.Stream(ctx, "MEMBER_ESSENTIAL")
	if err != nil {
		return nil
	}
	var out []string
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil {
			b.t.Fatalf("message %d: %v", seq, err)
		}
		out = append(out, first(m.Header["ce-id"]))
	}
	return out
}

func (b *bench) eventually(what string, cond func() bool) {
	b.t.Helper()
	testenv.Eventually(b.t, 20*time.Second, what, cond)
}

// published waits until the lane has nothing pending.
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
		b.t.Errorf("stream holds %d messages, %d distinct, want %d, each once", len(got), len(slices.Compact(got)), len(want))
	}
}

func TestEventsArriveAsCloudEventsInOrder(t *testing.T) {
	b := newBench(t)
	r, _ := b.start(Hooks{})
	var want []string
	if err := InTx(t.Context(), b.pool, r.Wake, func(tx pgx.Tx) error {
		want = b.append(tx, event("k", 1), event("k", 2), event("k", 3))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b.published()
	if got := b.stored(); !slices.Equal(got, want) {
		t.Fatalf("stream holds %v, want %v", got, want)
	}
	js, _ := jetstream.New(b.connect())
	s, err := js.Stream(t.Context(), "MEMBER_ESSENTIAL")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"ce-specversion": "1.0", "ce-id": want[0], "ce-type": "storage.provision", "ce-source": "/test",
		"ce-subject": "k", "ce-sagaid": "s-k", "content-type": "application/json"} {
		if got := first(m.Header[k]); got != v {
			t.Errorf("header %s = %q, want %q", k, got, v)
		}
	}
	if string(m.Data) != `{"i":1}` || m.Subject != "signup.essential.storage.provision" {
		t.Errorf("message %s %s", m.Subject, m.Data)
	}
}

func TestRolledBackTransactionLeavesNoTrace(t *testing.T) {
	b := newBench(t)
	b.start(Hooks{})
	want := b.commit(1)
	woken := false
	err := InTx(t.Context(), b.pool, func() { woken = true }, func(tx pgx.Tx) error {
		b.append(tx, event("k", 1))
		return errors.New("no")
	})
	if err == nil || woken {
		t.Errorf("err %v, woken %v", err, woken)
	}
	want = append(want, b.commit(1)...)
	b.published()
	b.wantExactly(want)
	b.noGaps()
}

func (b *bench) noGaps() {
	b.t.Helper()
	b.eventually("no open gap", func() bool {
		p, _, err := checkpoints{pool: b.pool, lane: lane}.newest(b.t.Context())
		return err == nil && len(p.gaps) == 0
	})
}

// The owner of the missing id has the highest xid of all when the gap is seen,
// and another transaction ends before it does: the order in which a stamp
// taken from the snapshot's xmax would lose the event.
func TestOpenTransactionIsNotSkipped(t *testing.T) {
	b := newBench(t)
	xid := func(tx pgx.Tx) {
		if _, err := tx.Exec(t.Context(), "SELECT pg_current_xact_id()"); err != nil {
			t.Fatal(err)
		}
	}
	h, f := b.begin(), b.begin()
	xid(h)
	xid(f)
	o := b.begin()
	want := b.append(o, event("o", 1)) // id 1
	want = append(want, b.append(h, event("h", 2))...)
	b.end(h.Commit) // id 2 is visible, 1 is not
	b.start(Hooks{})
	b.eventually("id 2", func() bool { return len(b.stored()) == 1 })
	b.end(f.Commit)
	want = append(want, b.commit(3)...)
	b.eventually("ids 3 to 5", func() bool { return len(b.stored()) == 4 })
	b.end(o.Commit)
	b.eventually("id 1", func() bool { return len(b.stored()) == 5 })
	b.wantExactly(want)
	b.noGaps()
}

// Every step fails once before it happens and once after it happened.
func TestEachStepMayFail(t *testing.T) {
	for _, point := range []string{"read", "publish", "published", "checkpoint", "checkpointed"} {
		t.Run(point, func(t *testing.T) {
			b := newBench(t)
			want := b.commit(25)
			var failed atomic.Int32
			var recovered atomic.Int32
			b.start(Hooks{
				Fault: func(p string) error {
					if p == point && failed.Add(1) <= 3 {
						return errors.New("injected")
					}
					return nil
				},
				Recovered: func(n int) { recovered.Add(int32(n)) },
			})
			b.eventually("the fault", func() bool { return failed.Load() > 0 })
			b.eventually("three faults", func() bool {
				want = append(want, b.commit(1)...)
				return failed.Load() >= 3
			})
			b.published()
			b.wantExactly(want)
			if lost := point == "published" || point == "checkpoint"; lost != (recovered.Load() > 0) {
				t.Errorf("recovered %d events", recovered.Load())
			}
		})
	}
}

func TestOneOfTwoRelaysLeadsAndTheOtherTakesOver(t *testing.T) {
	b := newBench(t)
	var leaders atomic.Int32
	hooks := Hooks{Led: func(on bool) {
		if on {
			leaders.Add(1)
		} else {
			leaders.Add(-1)
		}
	}}
	_, stop1 := b.start(hooks)
	b.eventually("a leader", func() bool { return leaders.Load() == 1 })
	r2, _ := b.start(hooks)
	want := b.commit(10)
	r2.Wake()
	b.published()
	if n := leaders.Load(); n != 1 {
		t.Fatalf("%d leaders", n)
	}
	stop1()
	handed := time.Now()
	want = append(want, b.commit(10)...)
	b.published()
	if took := time.Since(handed); took > staleAfter-time.Second {
		t.Errorf("take-over after a hand-over took %s: the hand-over was not noticed", took)
	}
	b.wantExactly(want)
}

// A relay is stopped between its read and its publish for longer than it takes
// the other to take over, then goes on: the broker must refuse its batch.
func TestPausedLeaderCannotPublishWhatAnotherPublished(t *testing.T) {
	b := newBench(t)
	want := b.commit(10)
	paused, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.start(Hooks{Fault: func(p string) error {
		if p == "publish" {
			once.Do(func() { close(paused); <-resume })
		}
		return nil
	}})
	<-paused
	b.start(Hooks{})
	b.published()
	close(resume)
	want = append(want, b.commit(10)...)
	b.published()
	b.wantExactly(want)
}

func TestWipedBrokerGetsTheReplayWindowAgain(t *testing.T) {
	b := newBench(t)
	var lost atomic.Int32
	b.start(Hooks{BrokerLost: func() { lost.Add(1) }})
	want := b.commit(50)
	b.published()
	for round := range int32(2) {
		b.nats.Wipe()
		want = append(want, b.commit(5)...)
		b.eventually("all events again", func() bool { return lost.Load() == round+1 && len(b.stored()) >= len(want) })
		b.wantExactly(want)
	}
}

func TestRolledBackBrokerGetsWhatItLost(t *testing.T) {
	b := newBench(t)
	var lost atomic.Int32
	b.start(Hooks{BrokerLost: func() { lost.Add(1) }})
	want := b.commit(5)
	b.published()
	b.nats.Stop()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(b.nats.Dir)); err != nil {
		t.Fatal(err)
	}
	b.nats.Start()
	want = append(want, b.commit(5)...)
	b.eventually("ten events", func() bool { return len(b.stored()) == 10 })
	b.nats.Stop()
	if err := errors.Join(os.RemoveAll(b.nats.Dir), os.CopyFS(b.nats.Dir, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	b.nats.Start()
	b.eventually("a broker loss", func() bool { return lost.Load() == 1 })
	want = append(want, b.commit(1)...)
	b.published()
	got := map[string]int{}
	for _, id := range b.stored() {
		got[id]++
	}
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("stream holds %d distinct events, want %d", len(got), len(want))
	}
}

func TestDefectiveEventsDieAlone(t *testing.T) {
	b := newBench(t)
	var died atomic.Int32
	b.start(Hooks{Died: func(string, error) { died.Add(1) }})
	large, header, typ := event("k", 1), event("k", 2), event("k", 3)
	large.Payload = make([]byte, 2<<20)
	header.Headers = map[string]string{"Nats-Expected-Last-Sequence": "1"}
	typ.Type = "no spaces allowed"
	good := event("k", 4)
	tx := b.begin()
	b.append(tx, large, header, typ, good)
	b.end(tx.Commit)
	b.published()
	b.wantExactly([]string{good.ID})
	s, err := ReadStatus(t.Context(), b.pool, lane)
	if err != nil || s.Dead != 3 || died.Load() != 3 {
		t.Errorf("dead %d, hook %d, err %v; want 3", s.Dead, died.Load(), err)
	}
}

func TestForeignMessageRaisesAlarmAndDoesNotBlock(t *testing.T) {
	b := newBench(t)
	var foreign atomic.Uint64
	b.start(Hooks{Foreign: func(seq uint64) { foreign.Store(seq) }})
	b.commit(3)
	b.published()
	js, _ := jetstream.New(b.connect())
	if _, err := js.Publish(t.Context(), "signup.essential.stranger", nil); err != nil {
		t.Fatal(err)
	}
	b.commit(3)
	b.published()
	if got := len(b.stored()); got != 7 || foreign.Load() != 4 {
		t.Errorf("%d messages, foreign at %d; want 7 and 4", got, foreign.Load())
	}
}

// However many events the table retains, a read touches what it returns and one
// index entry per gap.
func TestReadCostsWhatItReturns(t *testing.T) {
	b := newBench(t)
	if _, err := b.pool.Exec(t.Context(), `INSERT INTO outbox_event_essential (event_id, key, type, headers, payload)
SELECT gen_random_uuid(), 'k', 't', '{}', '' FROM generate_series(1, 20000)`); err != nil {
		t.Fatal(err)
	}
	for _, gaps := range [][]int64{{}, {21000, 22000, 23000}} {
		var plan []byte
		if err := b.pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+readSQL(lane), 19990, gaps, gaps, maxBatch, maxBatchBytes).Scan(&plan); err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"Actual Rows": (\d+)`).FindAllSubmatch(plan, -1) {
			if n, _ := strconv.Atoi(string(m[1])); n > 20 {
				t.Errorf("with %d gaps a node of the plan reads %d rows:\n%s", len(gaps), n, plan)
				break
			}
		}
	}
}

func TestStatusShowsWhatIsPending(t *testing.T) {
	b := newBench(t)
	if s, err := ReadStatus(t.Context(), b.pool, lane); err != nil || s.Lag != 0 || !s.OldestPending.IsZero() {
		t.Fatalf("%+v, %v", s, err)
	}
	b.commit(4)
	if s, err := ReadStatus(t.Context(), b.pool, lane); err != nil || s.Lag != 4 || s.OldestPending.IsZero() {
		t.Fatalf("%+v, %v", s, err)
	}
}

// Retention keeps what a replay may need, and what is still looked for.
func TestRetentionDeletesOnlyWhatNobodyNeeds(t *testing.T) {
	b := newBench(t)
	r, stop := b.start(Hooks{})
	open := b.begin()
	late := b.append(open, event("late", 1)) // id 1: a gap as long as it is open
	want := b.commit(20)
	b.published()
	stop()
	age := func() {
		t.Helper()
		if _, err := b.pool.Exec(t.Context(), `UPDATE outbox_checkpoint_essential SET published_at = published_at - interval '3 hours';
UPDATE outbox_event_essential SET created_at = created_at - interval '8 days'`); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (events, checkpoints int) {
		t.Helper()
		if err := r.retain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM outbox_event_essential), (SELECT count(*) FROM outbox_checkpoint_essential)").
			Scan(&events, &checkpoints); err != nil {
			t.Fatal(err)
		}
		return events, checkpoints
	}
	if events, _ := left(); events != 20 {
		t.Fatalf("%d events left of 20 that are young", events)
	}
	age()
	_, stop = b.start(Hooks{})
	want = append(want, b.commit(3)...)
	b.published()
	if events, _ := left(); events != 23 {
		t.Fatalf("%d events left of 23 above an open gap", events)
	}
	b.end(open.Commit)
	want = append(want, late...)
	b.eventually("the late event", func() bool { return len(b.stored()) == 24 })
	b.noGaps()
	stop()
	age()
	b.start(Hooks{})
	fresh := b.commit(3)
	b.published()
	events, checkpoints := left()
	if events != 3 || checkpoints > 6 {
		t.Errorf("%d events and %d checkpoints left, want 3 and a handful", events, checkpoints)
	}
	b.wantExactly(append(want, fresh...))
	b.nats.Wipe()
	b.eventually("the replay of what is left", func() bool { return len(b.stored()) == 3 })
}

// A crash took checkpoint 1 of relay A back, and relay B wrote another one in
// its place: what A remembers is void.
func TestCheckpointNeedsItsPredecessorFromTheSameRelay(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	relayA, relayB := checkpoints{b.pool, lane, newID()}, checkpoints{b.pool, lane, newID()}
	p, _, err := relayA.newest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ofA, err := relayA.takeOver(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(ctx, "DELETE FROM outbox_checkpoint_essential WHERE n = $1", ofA.n); err != nil {
		t.Fatal(err)
	}
	if _, err := relayA.append(ctx, ofA, ofA, nil); !errors.Is(err, errSuperseded) {
		t.Errorf("append after a lost checkpoint: %v", err)
	}
	if _, err := relayB.takeOver(ctx, p); err != nil {
		t.Fatal(err)
	}
	if _, err := relayA.append(ctx, ofA, ofA, nil); !errors.Is(err, errSuperseded) {
		t.Errorf("append behind another relay's checkpoint: %v", err)
	}
}

// A replay that was cut short by another loss is not forgotten.
func TestSecondLossDuringReplay(t *testing.T) {
	b := newBench(t)
	_, stop := b.start(Hooks{})
	want := b.commit(30)
	b.published()
	stop()
	if _, err := b.pool.Exec(t.Context(), "UPDATE outbox_checkpoint_essential SET published_at = published_at - interval '3 hours'"); err != nil {
		t.Fatal(err)
	}
	b.nats.Wipe()
	var lost atomic.Int32
	armed := make(chan struct{})
	_, stop = b.start(Hooks{BrokerLost: func() { lost.Add(1) }, Fault: func(p string) error {
		if p == "publish" { // never gets to publish after the first loss
			select {
			case <-armed:
			default:
				close(armed)
			}
			return errors.New("injected")
		}
		return nil
	}})
	<-armed
	stop()
	if _, err := b.pool.Exec(t.Context(), "UPDATE outbox_checkpoint_essential SET published_at = published_at - interval '90 minutes'"); err != nil {
		t.Fatal(err)
	}
	b.nats.Wipe()
	b.start(Hooks{BrokerLost: func() { lost.Add(1) }})
	b.eventually("all events", func() bool { return len(b.stored()) == 30 })
	b.wantExactly(want)
	if lost.Load() != 2 {
		t.Errorf("%d losses noticed, want 2", lost.Load())
	}
}

// Writers that roll back and stay open, two relays, a broker that is killed and
// wiped, and errors before and after every step, all at once.
func TestNothingIsLostInAStorm(t *testing.T) {
	b := newBench(t)
	var faults, losses atomic.Int32
	calm := make(chan struct{})
	hooks := Hooks{
		Fault: func(string) error {
			select {
			case <-calm:
				return nil
			default:
			}
			if rand.IntN(10) == 0 {
				faults.Add(1)
				return errors.New("injected")
			}
			return nil
		},
		BrokerLost: func() { losses.Add(1) },
	}
	b.start(hooks)
	b.start(hooks)
	var mu sync.Mutex
	var want []string
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; i < 2000; i++ {
				select {
				case <-calm:
					return
				default:
				}
				tx := b.begin()
				got := b.append(tx, event(fmt.Sprint(w), i), event(fmt.Sprint(w), i))
				if i%5 == 0 {
					b.end(tx.Rollback)
					continue
				}
				b.end(tx.Commit)
				mu.Lock()
				want = append(want, got...)
				mu.Unlock()
			}
		})
	}
	someMore := func() {
		before := faults.Load()
		b.eventually("more faults", func() bool { return faults.Load() >= before+5 })
	}
	someMore()
	b.nats.Kill()
	b.nats.Start()
	someMore()
	b.nats.Wipe()
	b.eventually("the loss to be noticed", func() bool { return losses.Load() > 0 })
	someMore()
	close(calm)
	wg.Wait()
	want = append(want, b.commit(1)...)
	b.published()
	b.noGaps()
	got := b.stored()
	slices.Sort(got)
	if distinct := slices.Compact(got); !slices.Equal(distinct, slices.Sorted(slices.Values(want))) {
		t.Errorf("stream holds %d distinct events, want %d", len(distinct), len(want))
	}
	t.Logf("%d faults, %d broker losses, %d events", faults.Load(), losses.Load(), len(want))
}
