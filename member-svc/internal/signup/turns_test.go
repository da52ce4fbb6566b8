package signup

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// line lets n wait for turns that take kib each, in this order, and tells whose come.
func line(t *testing.T, turns *turns, u use, kib int64, n int, came chan<- use) {
	t.Helper()
	for range n {
		go func() {
			if err := turns.enter(context.Background(), u, kib); err != nil {
				t.Error(err)
			}
			came <- u
		}()
		synctest.Wait()
	}
}

// However many wait for the one, every second turn is the other's.
func TestSignupsAndLoginsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(HashConfig{Concurrency: 1, Wait: time.Minute})
		came := make(chan use, 100)
		line(t, turns, forSignup, 0, 21, came) // the first one has its turn at once
		line(t, turns, forLogin, 0, 5, came)
		if n := turns.waiting(); n != 25 {
			t.Fatalf("%d wait", n)
		}
		var order []use
		for range 26 {
			order = append(order, <-came)
			turns.leave(0)
			synctest.Wait()
		}
		want := []use{forSignup}
		for range 5 {
			want = append(want, forLogin, forSignup)
		}
		want = append(want, slices.Repeat([]use{forSignup}, 15)...)
		if !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
	})
}

// A full line of the one leaves the other's line as it is.
func TestEachUseHasItsOwnLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(HashConfig{Concurrency: 1, Wait: time.Minute})
		came := make(chan use, 100)
		line(t, turns, forSignup, 0, 1+waitersPerTurn, came)
		if err := turns.enter(t.Context(), forSignup, 0); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		line(t, turns, forLogin, 0, 1, came)
		for range 3 {
			<-came
			turns.leave(0)
			synctest.Wait()
		}
		if n := len(turns.lines[forLogin]); n != 0 {
			t.Error("the login still waits")
		}
		for range waitersPerTurn - 1 {
			<-came
			turns.leave(0)
		}
	})
}

func TestTurnsKeepToTheBudgetOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(HashConfig{Concurrency: 4, BudgetKiB: 100, Wait: time.Second})
		came := make(chan use, 100)
		line(t, turns, forLogin, 60, 2, came)
		line(t, turns, forLogin, 10, 1, came)
		if n := len(came); n != 1 || turns.kib != 40 {
			t.Fatalf("%d have turns, %d KiB are free; the second one needs more, and the third one may not overtake it", n, turns.kib)
		}
		turns.leave(60)
		synctest.Wait()
		if n := len(came); n != 3 || turns.kib != 30 {
			t.Errorf("%d have turns, %d KiB are free", n, turns.kib)
		}
		// Who gives up makes room for those behind who need less.
		giveUp, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- turns.enter(giveUp, forSignup, 50) }()
		synctest.Wait()
		line(t, turns, forSignup, 20, 1, came)
		if n := len(came); n != 3 {
			t.Errorf("%d have turns before one gives up", n)
		}
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if n := len(came); n != 4 || turns.kib != 10 || turns.free != 1 {
			t.Errorf("%d have turns, %d KiB and %d turns are free", n, turns.kib, turns.free)
		}
	})
}

// A hash that is dearer than the whole budget waits until it is alone.
func TestDearHash(t *testing.T) {
	h := NewHasher(HashConfig{Cost: Cost{8, 1, 1}, Concurrency: 4, BudgetKiB: 32, Wait: time.Minute})
	leave, err := h.enter(t.Context(), forLogin, Cost{1 << 20, 1, 1})
	if err != nil || h.turns.kib != 0 || h.turns.free != 3 {
		t.Fatalf("%d KiB and %d turns are free, %v", h.turns.kib, h.turns.free, err)
	}
	leave()
	leave, err = h.enter(t.Context(), forLogin, Cost{4, 1, 1}) // and a new one of 8 KiB perhaps
	if err != nil || h.turns.kib != 24 {
		t.Errorf("%d KiB are free, %v", h.turns.kib, err)
	}
	leave()
}
