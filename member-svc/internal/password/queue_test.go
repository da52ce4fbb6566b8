package password

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// line makes n callers wait for turns that take kib each, in this order, and reports each turn to came.
func line(t *testing.T, queue *hashQueue, u use, kib int64, n int, came chan<- use) {
	t.Helper()
	for range n {
		go func() {
			if err := queue.enter(context.Background(), u, kib); err != nil {
				t.Error(err)
			}
			came <- u
		}()
		synctest.Wait()
	}
}

// However many callers wait for one use, every second turn belongs to the other.
func TestSignupsAndLoginsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := newHashQueue(HashConfig{Concurrency: 1, Wait: time.Minute})
		came := make(chan use, 100)
		line(t, queue, forSignup, 0, 21, came) // the first caller gets a turn at once
		line(t, queue, forSignIn, 0, 5, came)
		if n := queue.waiting(); n != 25 {
			t.Fatalf("%d wait", n)
		}
		var order []use
		for range 26 {
			order = append(order, <-came)
			queue.leave(0)
			synctest.Wait()
		}
		want := []use{forSignup}
		for range 5 {
			want = append(want, forSignIn, forSignup)
		}
		want = append(want, slices.Repeat([]use{forSignup}, 15)...)
		if !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
	})
}

// A full line of one use does not affect the other's line.
func TestEachUseHasItsOwnQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := newHashQueue(HashConfig{Concurrency: 1, Wait: time.Minute})
		refused := make(chan error, 1)
		waits := func(u use) {
			go func() {
				if err := queue.enter(t.Context(), u, 0); err != nil {
					refused <- err
				}
			}()
			synctest.Wait()
		}
		for range 1 + waitersPerTurn + 1 { // one caller has a turn
			waits(forSignup)
		}
		if err := <-refused; !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		waits(forSignIn)
		for range 2 {
			queue.leave(0)
			synctest.Wait()
		}
		if n := len(queue.lines[forSignIn]); n != 0 {
			t.Error("the login still waits")
		}
		for range waitersPerTurn {
			queue.leave(0)
		}
	})
}

// oneTurn is a queue with one turn at a time. Callers have names.
type oneTurn struct {
	t       *testing.T
	queue   *hashQueue
	came    chan string // callers that got a turn
	refused chan string // callers that were refused at once
}

func newOneTurn(t *testing.T, took time.Duration) *oneTurn {
	queue := newHashQueue(HashConfig{Concurrency: 1, Wait: 2 * time.Second})
	q := &oneTurn{t, queue, make(chan string, 1000), make(chan string, 1000)}
	if took > 0 {
		q.queue.measured(took)
	}
	if err := q.queue.enter(t.Context(), forSignIn, 0); err != nil { // someone has the turn
		t.Fatal(err)
	}
	return q
}

func (q *oneTurn) wait(name, address string) {
	q.waitAs(name, Caller{Address: netip.MustParseAddr(address)})
}

func (q *oneTurn) waitAs(name string, caller Caller) {
	ctx := WithCaller(q.t.Context(), caller)
	go func() {
		came := q.came
		if q.queue.enter(ctx, forSignIn, 0) != nil {
			came = q.refused
		}
		came <- name
	}()
	synctest.Wait()
}

// turn ends a turn and returns who has the next one.
func (q *oneTurn) turn() string {
	q.queue.leave(0)
	synctest.Wait()
	select {
	case name := <-q.came:
		return name
	default:
		return "nobody"
	}
}

func (q *oneTurn) order() string {
	var order []string
	for name := q.turn(); name != "nobody"; name = q.turn() {
		order = append(order, name)
	}
	return strings.Join(order, " ")
}

func TestHashQueueIsFair(t *testing.T) {
	for name, c := range map[string]struct {
		wait [][2]string // names and addresses, in the order of arrival
		want string
	}{
		"one who asks once before one who asks again and again": {
			append(slices.Repeat([][2]string{{"a", "192.0.2.1"}}, 4), [2]string{"b", "198.51.100.1"}),
			"a b a a a",
		},
		"addresses of one network count together": {
			append(slices.Repeat([][2]string{{"n", ""}}, 24),
				[2]string{"b", "198.51.100.1"}, [2]string{"c", "192.0.2.200"}),
			strings.Repeat("n ", 8) + "b " + strings.Repeat("n ", 8) + strings.Repeat("n ", 8) + "c",
		},
		"in a short line equals come in order": {
			[][2]string{{"a", "192.0.2.1"}, {"b", "198.51.100.1"}, {"c", "203.0.113.1"}}, "a b c",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newOneTurn(t, 0)
				for i, w := range c.wait {
					if w[1] == "" {
						w[1] = fmt.Sprint("192.0.2.", i+1)
					}
					q.wait(w[0], w[1])
				}
				if got := q.order(); got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
			})
		})
	}
}

// Ten turns of 200 ms fit into 2 s. With more than five waiters the newest comes first; with more than ten the
// oldest is refused at once.
func TestLongQueueServesTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, began := newOneTurn(t, 200*time.Millisecond), time.Now()
		for i := range 12 {
			q.wait(string(rune('a'+i)), fmt.Sprintf("192.0.%d.1", i))
		}
		if first, second := <-q.refused, <-q.refused; first+second != "ab" || time.Since(began) != 0 {
			t.Errorf("%s and %s are refused after %s", first, second, time.Since(began))
		}
		if got := q.order(); got != "l k j i h c d e f g" {
			t.Error(got)
		}
	})
}

// When a line is full, the caller who asks all the time is refused, and no one else.
func TestFullQueueRefusesTheHeaviestCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newOneTurn(t, 200*time.Millisecond)
		q.wait("b", "198.51.100.1")
		for range 40 {
			q.wait("a", "192.0.2.1")
		}
		if got := q.turn() + q.turn(); got != "ab" && got != "ba" {
			t.Errorf("the first two turns: %s", got)
		}
		for range 31 {
			if name := <-q.refused; name != "a" {
				t.Errorf("%s is refused", name)
			}
		}
		q.order()
	})
}

func TestHashesKeepToTheMemoryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := newHashQueue(HashConfig{Concurrency: 4, BudgetKiB: 100, Wait: time.Second})
		came := make(chan use, 100)
		line(t, queue, forSignIn, 60, 2, came)
		line(t, queue, forSignIn, 10, 1, came)
		if n := len(came); n != 1 || queue.kib != 40 {
			t.Fatalf("%d have queue, %d KiB are free; the second one needs more, and the third one may not overtake it",
				n, queue.kib)
		}
		queue.leave(60)
		synctest.Wait()
		if n := len(came); n != 3 || queue.kib != 30 {
			t.Errorf("%d have queue, %d KiB are free", n, queue.kib)
		}
		// A caller who gives up makes room for those behind who need less.
		giveUp, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- queue.enter(giveUp, forSignup, 50) }()
		synctest.Wait()
		line(t, queue, forSignup, 20, 1, came)
		if n := len(came); n != 3 {
			t.Errorf("%d have turns before one gives up", n)
		}
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if n := len(came); n != 4 || queue.kib != 10 || queue.free != 1 {
			t.Errorf("%d have queue, %d KiB and %d turns are free", n, queue.kib, queue.free)
		}
	})
}

// A hash that needs more than the whole budget waits until no other is running.
func TestExpensiveHash(t *testing.T) {
	h := NewHasher(HashConfig{Cost: Cost{8, 1, 1}, Concurrency: 4, BudgetKiB: 32, Wait: time.Minute})
	leave, err := h.enter(t.Context(), forSignIn, Cost{1 << 20, 1, 1})
	if err != nil || h.queue.kib != 0 || h.queue.free != 3 {
		t.Fatalf("%d KiB and %d turns are free, %v", h.queue.kib, h.queue.free, err)
	}
	leave()
	leave, err = h.enter(t.Context(), forSignIn, Cost{4, 1, 1}) // the turn may also make a new hash of 8 KiB
	if err != nil || h.queue.kib != 24 {
		t.Errorf("%d KiB are free, %v", h.queue.kib, err)
	}
	leave()
}

// Callers with a solved challenge come first. The others keep every fourth turn and a fourth of a full line.
func TestSolvedChallengesComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newOneTurn(t, 125*time.Millisecond) // 16 turns fit into the wait
		q.queue.given[forSignIn] = 1
		for i := range 10 {
			q.wait("u", fmt.Sprintf("192.0.%d.1", i))
		}
		if q.queue.pressure() != 0 {
			t.Error("there is pressure while nobody is refused")
		}
		for i := range 12 {
			q.waitAs("s", Caller{Address: netip.AddrFrom4([4]byte{198, 51, byte(i), 1}), Solved: true})
		}
		for range 6 {
			if name := <-q.refused; name != "u" {
				t.Errorf("%s is refused", name)
			}
		}
		if q.queue.pressure() == 0 {
			t.Error("there is no pressure while callers are refused")
		}
		q.waitAs("s", Caller{Solved: true})
		if name := <-q.refused; name != "s" {
			t.Errorf("%s is refused, beyond the share that others keep", name)
		}
		if got := q.order(); got != "s s s u s s s u s s s u s s s u" {
			t.Error(got)
		}
		<-time.After(time.Minute)
		if p := q.queue.pressure(); p != 0 {
			t.Errorf("pressure %f after a minute", p)
		}
	})
}
