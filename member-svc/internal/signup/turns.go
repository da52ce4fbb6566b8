package signup

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// use is what somebody hashes for.
type use int

const (
	forSignup use = iota
	forLogin
	uses
)

const (
	// waitersPerTurn bounds the line of each use.
	waitersPerTurn = 64
	// remembered is how many turns of one address are remembered, and forgotten how long
	// it takes to forget one of them.
	remembered = 64
	forgotten  = time.Minute
	// unsolvedShare is the part of the turns, one in so many, that is kept for callers
	// who solved no challenge; and that part of a full line.
	unsolvedShare = 4
	// pressureTime is how long it takes until half of a pressure is forgotten.
	pressureTime = 5 * time.Second
)

// Caller is whom a hash is for.
type Caller struct {
	Address netip.Addr
	Solved  bool // a challenge
}

type callerKey struct{}

// WithCaller returns a context in which a [Hasher] knows for whom it works.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// turns lets a few hash at a time, within a budget of memory. Each use has a line of
// its own. One may take everything while nobody waits in the other line; when both
// wait they alternate, so that neither gets less than half. Safe for concurrent use.
//
// Within a line, callers who solved a challenge come first, but for a share that is kept
// for the others. Among either, the caller whose networks asked for the fewest turns of late comes
// first. An address that asks once gets its turn while others ask again and again, and
// so does a network: these wait for what is left. Of equals, the one that waits longest
// comes first. When the line is more than half full, it is the newest one instead: under
// a load that cannot be met, those who get a turn get it at once, rather than all of
// them late. A line is full when more could not have their turns in time; then the last
// one in this order is refused at once.
type turns struct {
	wait        time.Duration // in line, at most
	concurrency int
	asked       *service.Limiter // how often each network asked for a turn

	mu    sync.Mutex
	free  int           // more who may hash
	kib   int64         // memory that they may take
	took  time.Duration // what a turn takes, on average; 0 if nobody knows
	lines [uses][]*waiter
	next  use       // whose line comes first
	given [uses]int // turns

	refused, served float64 // callers of late
	counted         time.Time
}

// waiter is one in a line, which is in the order of arrival.
type waiter struct {
	kib    int64
	solved bool
	rank   int        // the lowest has the first turn
	turn   chan error // nil when it comes, or ErrBusy
}

func newTurns(cfg HashConfig) *turns {
	return &turns{
		wait: cfg.Wait, concurrency: cfg.Concurrency, asked: service.NewLimiter(remembered, forgotten),
		free: cfg.Concurrency, kib: cfg.BudgetKiB,
	}
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
	caller, _ := ctx.Value(callerKey{}).(Caller)
	// Ranks are powers of two: a caller who tries once more is no worse off than most.
	w := &waiter{
		kib: kib, solved: caller.Solved, rank: bits.Len(uint(t.asked.Spend(caller.Address))), turn: make(chan error, 1),
	}
	t.mu.Lock()
	t.lines[u] = append(t.lines[u], w)
	t.admit()
	t.refuse(u)
	t.mu.Unlock()
	timer := time.NewTimer(t.wait)
	defer timer.Stop()
	var err error
	select {
	case err = <-w.turn:
		return err
	case <-timer.C:
		err = ErrBusy
	case <-ctx.Done():
		err = ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.lines[u], w)
	if i < 0 {
		return <-w.turn // it came meanwhile
	}
	t.lines[u] = slices.Delete(t.lines[u], i, i+1)
	if errors.Is(err, ErrBusy) {
		t.count(1, 0)
	}
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

// measured notes what a turn took.
func (t *turns) measured(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.took == 0 {
		t.took = took
	}
	t.took += (took - t.took) / 16
}

// count adds to the callers of late.
func (t *turns) count(refused, served float64) {
	now := time.Now()
	kept := math.Exp2(-float64(now.Sub(t.counted)) / float64(pressureTime))
	t.refused, t.served, t.counted = t.refused*kept+refused, t.served*kept+served, now
}

// pressure returns how many callers were refused of late for each one that had a turn;
// 0 while next to nobody is.
func (t *turns) pressure() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(0, 0)
	if t.refused < 0.5 {
		return 0
	}
	return t.refused / max(1, t.served)
}

// most returns how many in a line can have their turns in time.
func (t *turns) most(u use) int {
	most := waitersPerTurn * t.concurrency
	if t.took > 0 {
		inTime := int(t.wait / t.took * time.Duration(t.concurrency))
		if len(t.lines[1-u]) > 0 { // which has half of the turns
			inTime /= 2
		}
		most = max(1, min(most, inTime))
	}
	return most
}

// refuse shortens a line that is too long, by the last one of those who are more than
// their share of it.
func (t *turns) refuse(u use) {
	for most := t.most(u); len(t.lines[u]) > most; {
		unsolved := 0
		for _, w := range t.lines[u] {
			if !w.solved {
				unsolved++
			}
		}
		solved := unsolved <= max(1, most/unsolvedShare) && unsolved < len(t.lines[u])
		last := -1 // the oldest of the highest rank
		for i, w := range t.lines[u] {
			if w.solved == solved && (last < 0 || w.rank > t.lines[u][last].rank) {
				last = i
			}
		}
		t.lines[u][last].turn <- ErrBusy
		t.lines[u] = slices.Delete(t.lines[u], last, last+1)
		t.count(1, 0)
	}
}

// first returns who in a line has the next turn: of the lowest rank the oldest or, in a
// long line, the newest.
func (t *turns) first(u use) int {
	line, first := t.lines[u], 0
	long := len(line) > t.most(u)/2
	preferSolved := t.given[u]%unsolvedShare != 0
	for i, w := range line {
		best := line[first]
		switch {
		case w.solved != best.solved:
			if w.solved == preferSolved {
				first = i
			}
		case w.rank < best.rank || long && w.rank == best.rank:
			first = i
		}
	}
	return first
}

// admit gives turns to those who come first. Nobody else has a turn while the first one
// of the line whose turn it is waits for memory: who needs much would never get it.
func (t *turns) admit() {
	for t.free > 0 {
		u := t.next
		if len(t.lines[u]) == 0 {
			u = (u + 1) % uses
		}
		if len(t.lines[u]) == 0 {
			return
		}
		i := t.first(u)
		w := t.lines[u][i]
		if w.kib > t.kib {
			return
		}
		t.free--
		t.kib -= w.kib
		t.given[u]++
		t.count(0, 1)
		w.turn <- nil
		t.lines[u] = slices.Delete(t.lines[u], i, i+1)
		t.next = (u + 1) % uses
	}
}
