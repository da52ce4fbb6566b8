package outbox

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
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
	got := b.stored()
	slices.Sort(got)
	if distinct := slices.Compact(got); !slices.Equal(distinct, slices.Sorted(slices.Values(want))) {
		t.Errorf("stream holds %d distinct events, want %d", len(distinct), len(want))
	}
	t.Logf("%d faults, %d broker losses, %d events", faults.Load(), losses.Load(), len(want))
}

// writers append until stop is closed, and then report what they committed.
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

// The broker dies while an acknowledgement is awaited: the relay does not wait
// for it until the time-out.
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
