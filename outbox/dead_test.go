package outbox

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// deadBench has one published event, and one that died because the stream did not accept its subject. The stream
// now accepts it. No relay runs.
func deadBench(t *testing.T) (b *bench, js jetstream.JetStream, good, dead string) {
	t.Helper()
	b = newBench(t)
	js, err := jetstream.New(b.connect())
	if err != nil {
		t.Fatal(err)
	}
	narrow := StreamConfig(b.stream, []string{"signup.essential.storage.*"}, 1)
	if _, err := js.CreateStream(t.Context(), narrow); err != nil {
		t.Fatal(err)
	}
	_, stop := b.start(Hooks{})
	e := event("k", 1)
	e.Type = "member.signed-up"
	tx := b.begin()
	dead = b.append(tx, e)[0] // row 1
	b.end(tx.Commit)
	good = b.commit(1)[0]
	b.published()
	b.wantStatus(0, 1)
	stop()
	narrow.Subjects = []string{"signup.essential.>"}
	if _, err := js.UpdateStream(t.Context(), narrow); err != nil {
		t.Fatal(err)
	}
	return b, js, good, dead
}

// wantNotDead checks that the event is no longer dead and cannot be requeued.
func (b *bench) wantNotDead() {
	b.t.Helper()
	b.eventually("an empty dead table", func() bool {
		s, err := ReadStatus(b.t.Context(), b.pool, lane)
		return err == nil && s.Dead == 0 && s.Lag == 0
	})
	err := InTx(b.t.Context(), b.pool, nil, func(tx pgx.Tx) error { return Requeue(b.t.Context(), tx, lane, 1) })
	if !errors.Is(err, pgx.ErrNoRows) {
		b.t.Errorf("requeued though it was published: %v", err)
	}
}

// A batch that holds the event arrives after another relay has found the event dead.
func TestDeadEventThatArrivesLateIsDeadNoMore(t *testing.T) {
	b, js, good, dead := deadBench(t)
	late := nats.NewMsg("signup.essential.member.signed-up")
	late.Header = nats.Header{headerRow: {"1"}, "ce-id": {dead}}
	if _, err := js.PublishMsg(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	var foreign atomic.Bool
	b.start(Hooks{Foreign: func(uint64) { foreign.Store(true) }})
	b.wantNotDead()
	b.wantExactly([]string{good, dead})
	if foreign.Load() {
		t.Error("an event of this outbox raised the alarm")
	}
}

// A replay reads dead events again, and the stream now accepts this one.
func TestReplayedDeadEventIsDeadNoMore(t *testing.T) {
	for name, replay := range map[string]func(b *bench){
		"by hand": func(b *bench) {
			if err := ReplaySince(b.t.Context(), b.pool, lane, time.Time{}); err != nil {
				b.t.Fatal(err)
			}
			b.start(Hooks{})
		},
		"wiped broker": func(b *bench) {
			b.nats.Wipe()
			b.start(Hooks{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, _, good, dead := deadBench(t)
			replay(b)
			b.eventually("the replay", func() bool {
				n := len(b.stored())
				return n == 3 && name == "by hand" || n == 2 && name != "by hand"
			})
			b.wantNotDead()
			b.wantDistinct([]string{good, dead})
		})
	}
}

// A replay that finds the event still defective leaves it dead.
func TestReplayedDeadEventDiesAgain(t *testing.T) {
	b := newBench(t)
	_, stop := b.start(Hooks{})
	e := event("k", 1)
	e.Type = "no spaces allowed"
	tx := b.begin()
	b.append(tx, e)
	b.end(tx.Commit)
	b.published()
	b.wantStatus(0, 1)
	stop()
	if err := ReplaySince(t.Context(), b.pool, lane, time.Time{}); err != nil {
		t.Fatal(err)
	}
	b.wantStatus(1, 0)
	b.start(Hooks{})
	b.published()
	b.eventually("its second death", func() bool {
		s, err := ReadStatus(t.Context(), b.pool, lane)
		return err == nil && s.Dead == 1
	})
}
