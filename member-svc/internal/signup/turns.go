package signup

import (
	"context"
	"slices"
	"sync"
	"time"
)

// use is what somebody hashes for.
type use int

const (
	forSignup use = iota
	forLogin
	uses
)

// waitersPerTurn bounds the line of each use: more could not have their turn in time anyway.
const waitersPerTurn = 64

// turns lets a few hash at a time, within a budget of memory. Each use has a line of
// its own. One may take everything while nobody waits in the other line; when both
// wait they alternate, so that neither gets less than half. Safe for concurrent use.
type turns struct {
	wait time.Duration // in line, at most
	most int           // waiters of each use

	mu    sync.Mutex
	free  int   // more who may hash
	kib   int64 // memory that they may take
	lines [uses][]*waiter
	next  use // whose line comes first
}

type waiter struct {
	kib  int64
	turn chan struct{} // closed when it comes
}

func newTurns(cfg HashConfig) *turns {
	return &turns{wait: cfg.Wait, most: waitersPerTurn * cfg.Concurrency, free: cfg.Concurrency, kib: cfg.BudgetKiB}
}

// waiting returns how many wait in both lines.
func (t *turns) waiting() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int64(len(t.lines[forSignup]) + len(t.lines[forLogin]))
}

// enter waits for a turn that takes so much memory; [ErrBusy] if it does not come in
// time. Whoever got a turn has to leave with the same kib.
func (t *turns) enter(ctx context.Context, u use, kib int64) error {
	w := &waiter{kib: kib, turn: make(chan struct{})}
	t.mu.Lock()
	if len(t.lines[u]) >= t.most {
		t.mu.Unlock()
		return ErrBusy
	}
	t.lines[u] = append(t.lines[u], w)
	t.admit()
	t.mu.Unlock()
	timer := time.NewTimer(t.wait)
	defer timer.Stop()
	var err error
	select {
	case <-w.turn:
		return nil
	case <-timer.C:
		err = ErrBusy
	case <-ctx.Done():
		err = ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.lines[u], w)
	if i < 0 {
		return nil // the turn came meanwhile
	}
	t.lines[u] = slices.Delete(t.lines[u], i, i+1)
	t.admit() // it may have stood before others that need less
	return err
}

func (t *turns) leave(kib int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	t.kib += kib
	t.admit()
}

// admit gives turns to those in front. Nobody overtakes within a line, nor while the
// other line's first one waits for memory: who needs much would never have his turn.
func (t *turns) admit() {
	for {
		u := t.next
		if len(t.lines[u]) == 0 {
			u = (u + 1) % uses
		}
		line := t.lines[u]
		if len(line) == 0 || t.free == 0 || line[0].kib > t.kib {
			return
		}
		t.free--
		t.kib -= line[0].kib
		close(line[0].turn)
		t.lines[u] = slices.Delete(line, 0, 1)
		t.next = (u + 1) % uses
	}
}
