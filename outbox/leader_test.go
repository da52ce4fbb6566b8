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

// A relay is paused between its read and its publish for longer than the other needs to take over, and then
// continues. The broker must refuse its batch.
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

// A crash undid checkpoint 1 of relay A, and relay B wrote another one in its place: the state that A remembers
// is void.
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

// The model's rule for appending a checkpoint is the rule of the SQL statement.
func TestModelAppendsCheckpointsAsTheStatementDoes(t *testing.T) {
	b := newBench(t)
	uuids := []*string{nil, new(newID()), new(newID())} // nobody, relay 1, relay 2
	m := model{rules: proven}
	for rows := range 3 { // 0 to 2 checkpoints beyond the first
		for leader := range uuids {
			for author := range 2 {
				for _, gaps := range [][]gap{nil, {{1, 1, 0}}} {
					s := newState(budget{})
					if _, err := b.pool.Exec(t.Context(),
						"DELETE FROM outbox_checkpoint_essential WHERE n > 0"); err != nil {
						t.Fatal(err)
					}
					for n := range rows {
						s.checkpoints = append(s.checkpoints, stored{leader: leader})
						if _, err := b.pool.Exec(t.Context(),
							"INSERT INTO outbox_checkpoint_essential (n, leader, hi, gaps_at, stream_seq) VALUES "+
								"($1, $2, 0, 0, 0)",
							n+1, uuids[leader]); err != nil {
							t.Fatal(err)
						}
					}
					prev, next := position{n: 1}, position{n: 1, hi: 2, gaps: gaps}
					want, ok := m.insert(&s, prev, next, 1, author, sighting{})
					got, err := checkpoints{b.pool, lane, *uuids[1]}.insert(t.Context(), prev, next, uuids[1],
						uuids[author], nil)
					if ok != (err == nil) || !ok && !errors.Is(err, errSuperseded) {
						t.Errorf("%d rows of relay %d, author %d: the model says %v, the statement %v", rows, leader,
							author, ok, err)
					} else if got.n != want.n || got.gapsAt != want.gapsAt || len(got.gaps) != len(want.gaps) {
						t.Errorf("%d rows of relay %d, author %d: the model stores %+v, the statement %+v", rows,
							leader, author, want, got)
					}
				}
			}
		}
	}
}

// A crash undoes the checkpoint that a standby has just loaded, and the writer writes another one in its place
// before the standby takes over.
func TestTakeOverBehindARewrittenCheckpoint(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	writer, standby := checkpoints{b.pool, lane, newID()}, checkpoints{b.pool, lane, newID()}
	p, _, err := writer.newest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = writer.takeOver(ctx, p); err != nil {
		t.Fatal(err)
	}
	next := p
	next.hi, next.gaps = 2, []gap{{1, 1, 0}}
	if _, err := writer.append(ctx, p, next, nil); err != nil {
		t.Fatal(err)
	}
	loaded, _, err := standby.newest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(ctx, "DELETE FROM outbox_checkpoint_essential WHERE n = $1", loaded.n); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.append(ctx, p, p, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := standby.takeOver(ctx, loaded); err != nil {
		t.Fatal(err)
	}
	if got, _, err := standby.newest(ctx); err != nil || got.hi != 2 || len(got.gaps) != 1 {
		t.Errorf("loaded %+v, %v; want the gap of the position that was taken over", got, err)
	}
}
