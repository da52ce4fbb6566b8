package outbox

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

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
