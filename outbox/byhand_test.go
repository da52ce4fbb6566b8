package outbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
)

// An event that the stream refuses dies, outlives retention, and is published after the stream accepts it and
// somebody requeues it.
func TestRequeueRevivesADeadEvent(t *testing.T) {
	b := newBench(t)
	js, err := jetstream.New(b.connect())
	if err != nil {
		t.Fatal(err)
	}
	narrow := StreamConfig("MEMBER_ESSENTIAL", []string{"signup.essential.storage.*"}, 1)
	if _, err := js.CreateStream(t.Context(), narrow); err != nil {
		t.Fatal(err)
	}
	_, stop := b.start(Hooks{})
	dead := event("k", 1)
	dead.Type = "member.signed-up"
	tx := b.begin()
	b.append(tx, dead)
	b.end(tx.Commit)
	want := b.commit(3)
	b.published()
	stop()
	b.age(3*time.Hour, 8*24*time.Hour)
	r, stop := b.start(Hooks{})
	want = append(want, b.commit(1)...)
	b.published()
	if err := r.retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantStatus(0, 1)
	stop()
	narrow.Subjects = []string{"signup.essential.>"}
	if _, err := js.UpdateStream(t.Context(), narrow); err != nil {
		t.Fatal(err)
	}
	r, _ = b.start(Hooks{})
	requeue := func() error {
		return InTx(t.Context(), b.pool, r.Wake, func(tx pgx.Tx) error { return Requeue(t.Context(), tx, lane, 1) })
	}
	if err := requeue(); err != nil {
		t.Fatal(err)
	}
	b.published()
	b.wantExactly(append(want, dead.ID))
	b.wantStatus(0, 0)
	if err := requeue(); !errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("requeued twice: %v", err)
	}
}

// Events published since a given time are published again, events published before it are not, and transactions
// that were still open then are not skipped.
func TestReplaySince(t *testing.T) {
	b := newBench(t)
	open := b.begin()
	late := b.append(open, event("late", 1))
	_, stop := b.start(Hooks{})
	before := b.commit(5)
	b.published()
	var since time.Time
	if err := b.pool.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&since); err != nil {
		t.Fatal(err)
	}
	again := b.commit(3)
	b.published()
	again = append(again, b.commit(2)...)
	b.published()
	if err := ReplaySince(t.Context(), b.pool, lane, since); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(before, again, again)
	b.eventually("the replay by the running relay", func() bool { return len(b.stored()) >= len(want) })
	b.published()
	b.wantTimes(want)
	stop()
	if err := ReplaySince(t.Context(), b.pool, lane, since); err != nil {
		t.Fatal(err)
	}
	b.end(open.Commit)
	b.start(Hooks{})
	want = slices.Concat(want, again, late)
	b.eventually("the replay by the next relay", func() bool { return len(b.stored()) >= len(want) })
	b.noGaps()
	b.wantTimes(want)
}

// A replay is requested while the relay constantly writes checkpoints.
func TestReplaySinceAgainstABusyRelay(t *testing.T) {
	b := newBench(t)
	r, _ := b.start(Hooks{})
	want := b.commit(20)
	b.published()
	done := make(chan []string)
	go func() {
		var more []string
		defer func() { done <- more }()
		for range 200 {
			e := event("k", 1)
			if err := InTx(t.Context(), b.pool, r.Wake,
				func(tx pgx.Tx) error { return Append(t.Context(), tx, e) }); err != nil {
				t.Error(err)
			}
			more = append(more, e.ID)
		}
	}()
	for range 5 {
		if err := ReplaySince(t.Context(), b.pool, lane, time.Time{}); err != nil {
			t.Error(err)
		}
	}
	want = append(want, <-done...)
	b.published()
	b.noGaps()
	count := map[string]int{}
	for _, id := range b.stored() {
		count[id]++
	}
	for i, id := range want {
		if n := count[id]; n == 0 || i < 20 && n < 2 {
			t.Errorf("event %d is in the stream %d times", i, n)
		}
	}
}

// rival writes a checkpoint between the two halves of the first replay attempt.
type rival struct {
	once sync.Once
	do   func()
}

func (r *rival) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(q.SQL, "-- name: appendCheckpoint") {
		r.once.Do(r.do)
	}
	return ctx
}

func (r *rival) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// The relay writes a checkpoint in between: the replay still takes place.
func TestReplaySinceTriesAgain(t *testing.T) {
	b := newBench(t)
	_, stop := b.start(Hooks{})
	want := b.commit(3)
	b.published()
	stop()
	between := false
	config := b.pool.Config()
	config.ConnConfig.Tracer = &rival{do: func() {
		between = true
		if _, err := (checkpoints{b.pool, lane, newID()}).takeOver(t.Context(), b.position()); err != nil {
			t.Error(err)
		}
	}}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := ReplaySince(t.Context(), pool, lane, time.Time{}); err != nil || !between {
		t.Fatalf("%v, rival %v", err, between)
	}
	b.start(Hooks{})
	b.eventually("the replay", func() bool { return len(b.stored()) == 6 })
	b.wantTimes(slices.Concat(want, want))
}
