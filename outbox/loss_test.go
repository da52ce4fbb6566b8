package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

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

// The broker's disk is rolled back while another service keeps committing and publishing into its own stream.
// Each stream gets back the events it lost, and the other service's messages do not hide the loss.
func TestRolledBackBrokerGetsWhatItLost(t *testing.T) {
	b := newBench(t)
	other := benchOf(t, testenv.Database(t, "outbox", migrate), b.nats, "STORAGE_ESSENTIAL")
	var lost, otherLost atomic.Int32
	b.start(Hooks{BrokerLost: func() { lost.Add(1) }})
	other.start(Hooks{BrokerLost: func() { otherLost.Add(1) }})
	want, otherWant := b.commit(5), other.commit(5)
	b.published()
	other.published()
	b.nats.Stop()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(b.nats.Dir)); err != nil {
		t.Fatal(err)
	}
	b.nats.Start()
	done := make(chan struct{})
	written := other.writers(done)
	want = append(want, b.commit(5)...)
	b.eventually("ten events", func() bool { return len(b.stored()) == 10 })
	b.eventually("as many of the other service", func() bool { return other.position().streamSeq >= 10 })
	b.nats.Stop()
	if err := errors.Join(os.RemoveAll(b.nats.Dir), os.CopyFS(b.nats.Dir, os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	b.nats.Start()
	b.eventually("two broker losses", func() bool { return lost.Load() == 1 && otherLost.Load() == 1 })
	close(done)
	want, otherWant = append(want, b.commit(1)...), append(otherWant, written()...)
	b.published()
	other.published()
	other.noGaps()
	b.wantDistinct(want)
	other.wantDistinct(otherWant)
}

// Writers stay open while the broker loses all its data: some whose ids were already missing before the replay
// window, and one that came later. What they commit afterwards is published, and what they roll back is dropped.
// Events found in such a gap before the loss are published again.
func TestWritersOpenAcrossAWipe(t *testing.T) {
	b := newBench(t)
	b.reconnect(func(c *pgxpool.Config) { c.MaxConns = 10 }) // the writers hold four
	var lost atomic.Int32
	b.start(Hooks{BrokerLost: func() { lost.Add(1) }})
	early, found, gone := b.begin(), b.begin(), b.begin()
	late := b.append(early, event("early", 1)) // id 1
	again := b.append(found, event("found", 2))
	b.append(gone, event("gone", 3))
	b.commit(3)
	b.published()
	b.age(2*time.Hour, 0)
	again = append(again, b.commit(2)...)
	b.published()
	within := b.begin()
	late = append(late, b.append(within, event("within", 4))...)
	again = append(again, b.commit(2)...)
	b.published()
	b.end(found.Commit)
	b.eventually("the event that was found", func() bool { return len(b.stored()) == 8 })

	b.nats.Wipe()
	b.eventually("the replay window", func() bool { return lost.Load() == 1 && len(b.stored()) == 5 })
	b.wantExactly(again)
	b.end(early.Commit)
	b.end(gone.Rollback)
	again = append(again, b.commit(2)...)
	b.end(within.Commit)
	b.eventually("the events of the writers", func() bool { return len(b.stored()) == 9 })
	b.noGaps()
	b.wantExactly(append(again, late...))
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

// A replay that a second loss interrupted is completed.
func TestSecondLossDuringReplay(t *testing.T) {
	b := newBench(t)
	_, stop := b.start(Hooks{})
	want := b.commit(30)
	b.published()
	stop()
	if _, err := b.pool.Exec(t.Context(),
		"UPDATE outbox_checkpoint_essential SET published_at = published_at - interval '3 hours'"); err != nil {
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
	if _, err := b.pool.Exec(t.Context(),
		"UPDATE outbox_checkpoint_essential SET published_at = published_at - interval '90 minutes'"); err != nil {
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

// Everything at once: writers that roll back and stay open, two relays, a broker that is killed and wiped, and
// errors before and after every step.
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
	written := b.writers(calm)
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
	want := append(written(), b.commit(1)...)
	b.published()
	b.noGaps()
	b.wantDistinct(want)
	t.Logf("%d faults, %d broker losses, %d events", faults.Load(), losses.Load(), len(want))
}

// writers append events until stop is closed. The returned function waits for them and returns what they
// committed.
func (b *bench) writers(stop <-chan struct{}) (committed func() []string) {
	var mu sync.Mutex
	var all []string
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				select {
				case <-stop:
					return
				default:
				}
				tx := b.begin()
				ids := b.append(tx, event(fmt.Sprint(w), i), event(fmt.Sprint(w), i))
				if i%5 == 0 {
					b.end(tx.Rollback)
					continue
				}
				b.end(tx.Commit)
				mu.Lock()
				all = append(all, ids...)
				mu.Unlock()
			}
		})
	}
	return func() []string { wg.Wait(); return all }
}

// The broker dies while the relay waits for an acknowledgement: the relay stops waiting before the timeout.
func TestLostConnectionEndsTheWaitForAnAcknowledgement(t *testing.T) {
	b := newBench(t)
	inHand, send := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.start(Hooks{Fault: func(p string) error {
		if p == "publish" {
			once.Do(func() { close(inHand); <-send })
		}
		return nil
	}})
	want := b.commit(3)
	<-inHand
	b.nats.Pause()
	close(send)
	b.nats.Kill()
	b.nats.Start()
	began := time.Now()
	b.published()
	if waited := time.Since(began); waited > ioTimeout-time.Second {
		t.Errorf("published after %s", waited)
	}
	b.wantExactly(want)
}
