package outbox

import (
	"testing"
	"time"
)

// Retention keeps what a replay may need, and gaps that are still open.
func TestRetentionDeletesOnlyWhatNobodyNeeds(t *testing.T) {
	b := newBench(t)
	r, stop := b.start(Hooks{})
	open := b.begin()
	late := b.append(open, event("late", 1)) // id 1: a gap for as long as it is open
	want := b.commit(20)
	b.published()
	stop()
	age := func() { b.age(3*time.Hour, 8*24*time.Hour) }
	left := func() (events, checkpoints int) {
		t.Helper()
		if err := r.retain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.pool.QueryRow(t.Context(),
			"SELECT (SELECT count(*) FROM outbox_event_essential), (SELECT count(*) FROM outbox_checkpoint_essential)").
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
	b.eventually("the replay of the rest", func() bool { return len(b.stored()) == 3 })
}
