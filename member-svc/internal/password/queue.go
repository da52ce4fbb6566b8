package password

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

// use is the purpose of a hash.
type use int

const (
	forSignup use = iota
	forSignIn
	uses
)

const (
	// waitersPerTurn bounds each line, per concurrent hash.
	waitersPerTurn = 64
	// remembered is how many turns of one address count. One of them stops counting after each interval of
	// forgotten.
	remembered = 64
	forgotten  = time.Minute
	// unsolvedShare is the share of the turns, one in unsolvedShare, that is kept for callers without a solved
	// challenge. They keep the same share of a full line.
	unsolvedShare = 4
	// pressureTime is the half-life of the counts behind pressure.
	pressureTime = 5 * time.Second
)

// Caller is the client that a hash is for.
type Caller struct {
	Address netip.Addr
	Solved  bool // a challenge
}

type callerKey struct{}

// WithCaller returns a context that tells a [Hasher] its caller.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// hashQueue limits how many hash at a time, and their memory. Each use has its own line. One use may take
// everything while the other line is empty; when both wait, they alternate, so that each gets at least half.
// Safe for concurrent use.
//
// Within a line, callers with a solved challenge come first, except for a share of turns that is kept for the
// others. Within either group, the caller whose networks asked for the fewest turns recently comes first. So an
// address or a network that asks once gets its turn before those that ask again and again. Of equals, the
// longest waiter comes first. When the line is more than half full, the newest comes first instead: under a
// load that cannot be met, some callers get their turn at once, rather than all of them late. A line is full
// when more waiters could not have their turns in time; then the last one in this order is refused at once.
type hashQueue struct {
	wait        time.Duration // maximum time in line
	concurrency int
	asked       *service.Limiter // counts the turns that each network asked for

	mu    sync.Mutex
	free  int           // how many more may start
	kib   int64         // memory left for them
	took  time.Duration // average duration of a turn; 0 if not known yet
	lines [uses][]*waiter
	next  use       // the use whose line comes first
	given [uses]int // turns given

	refused, served float64 // recent callers, see pressureTime
	counted         time.Time
}

// waiter is a caller in a line. Lines are in the order of arrival.
type waiter struct {
	kib    int64
	solved bool
	rank   int        // the lowest rank has the next turn
	turn   chan error // receives nil when the turn comes, or ErrBusy
}

func newHashQueue(cfg HashConfig) *hashQueue {
	return &hashQueue{
		wait: cfg.Wait, concurrency: cfg.Concurrency, asked: service.NewLimiter(remembered, forgotten),
		free: cfg.Concurrency, kib: cfg.BudgetKiB,
	}
}

// waiting returns how many callers wait in both lines.
func (q *hashQueue) waiting() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int64(len(q.lines[forSignup]) + len(q.lines[forSignIn]))
}

// enter waits for a turn with kib of memory. The error is [ErrBusy] if the turn does not come in time. After
// enter returned nil, the caller must call leave with the same kib.
func (q *hashQueue) enter(ctx context.Context, u use, kib int64) error {
	caller, _ := ctx.Value(callerKey{}).(Caller)
	// Ranks are powers of two, so that one more attempt seldom changes a caller's rank.
	w := &waiter{
		kib: kib, solved: caller.Solved, rank: bits.Len(uint(q.asked.Spend(caller.Address))), turn: make(chan error, 1),
	}
	q.mu.Lock()
	q.lines[u] = append(q.lines[u], w)
	q.admit()
	q.refuse(u)
	q.mu.Unlock()
	timer := time.NewTimer(q.wait)
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
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.lines[u], w)
	if i < 0 {
		return <-w.turn // the turn came meanwhile
	}
	q.lines[u] = slices.Delete(q.lines[u], i, i+1)
	if errors.Is(err, ErrBusy) {
		q.count(1, 0)
	}
	q.admit() // it may have blocked others that need less memory
	return err
}

func (q *hashQueue) leave(kib int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free++
	q.kib += kib
	q.admit()
}

// measured updates the average duration of a turn.
func (q *hashQueue) measured(took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.took == 0 {
		q.took = took
	}
	q.took += (took - q.took) / 16
}

// count adds to the recent callers, after decaying the counts.
func (q *hashQueue) count(refused, served float64) {
	now := time.Now()
	kept := math.Exp2(-float64(now.Sub(q.counted)) / float64(pressureTime))
	q.refused, q.served, q.counted = q.refused*kept+refused, q.served*kept+served, now
}

// pressure returns how many callers were refused recently for each one that had a turn; 0 while almost none is.
func (q *hashQueue) pressure() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count(0, 0)
	if q.refused < 0.5 {
		return 0
	}
	return q.refused / max(1, q.served)
}

// most returns how many waiters of a line can have their turns in time.
func (q *hashQueue) most(u use) int {
	most := waitersPerTurn * q.concurrency
	if q.took > 0 {
		inTime := int(q.wait / q.took * time.Duration(q.concurrency))
		if len(q.lines[1-u]) > 0 { // the other line has half of the turns
			inTime /= 2
		}
		most = max(1, min(most, inTime))
	}
	return most
}

// refuse shortens a line that is too long. It refuses the last waiter of the group that exceeds its share.
func (q *hashQueue) refuse(u use) {
	for most := q.most(u); len(q.lines[u]) > most; {
		unsolved := 0
		for _, w := range q.lines[u] {
			if !w.solved {
				unsolved++
			}
		}
		solved := unsolved <= max(1, most/unsolvedShare) && unsolved < len(q.lines[u])
		last := -1 // the oldest of the highest rank
		for i, w := range q.lines[u] {
			if w.solved == solved && (last < 0 || w.rank > q.lines[u][last].rank) {
				last = i
			}
		}
		q.lines[u][last].turn <- ErrBusy
		q.lines[u] = slices.Delete(q.lines[u], last, last+1)
		q.count(1, 0)
	}
}

// first returns the index of the waiter that has the next turn: the oldest of the lowest rank or, in a long
// line, the newest of that rank.
func (q *hashQueue) first(u use) int {
	line, first := q.lines[u], 0
	long := len(line) > q.most(u)/2
	preferSolved := q.given[u]%unsolvedShare != 0
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

// admit gives turns to those who come first. While the first waiter of the next line waits for memory, nobody
// else has a turn: otherwise a waiter that needs much memory would never get it.
func (q *hashQueue) admit() {
	for q.free > 0 {
		u := q.next
		if len(q.lines[u]) == 0 {
			u = (u + 1) % uses
		}
		if len(q.lines[u]) == 0 {
			return
		}
		i := q.first(u)
		w := q.lines[u][i]
		if w.kib > q.kib {
			return
		}
		q.free--
		q.kib -= w.kib
		q.given[u]++
		q.count(0, 1)
		w.turn <- nil
		q.lines[u] = slices.Delete(q.lines[u], i, i+1)
		q.next = (u + 1) % uses
	}
}
