package main

import (
	"fmt"
	"strconv"
	"sync"
)

// idPrefix begins every event id. The rest is the event's number in hex. Because the id contains the number, the
// audit of a million events is cheap.
const idPrefix = "00000000-0000-4000-8000-"

func eventID(n int) string { return fmt.Sprintf("%s%012x", idPrefix, n) }

// ledger counts how often each event of a run arrived. It is safe for concurrent use.
type ledger struct {
	mu        sync.Mutex
	seen      []bool
	distinct  int
	doubled   int
	strangers int
}

// add records an arrival. It returns the event's number, or -1 for an unknown id, and whether it is the first
// arrival.
func (l *ledger) add(id string) (n int, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(id) != len(idPrefix)+12 || id[:len(idPrefix)] != idPrefix {
		l.strangers++
		return -1, false
	}
	v, err := strconv.ParseUint(id[len(idPrefix):], 16, 31)
	if err != nil {
		l.strangers++
		return -1, false
	}
	n = int(v)
	for n >= len(l.seen) {
		l.seen = append(l.seen, make([]bool, max(1024, len(l.seen)))...)
	}
	if l.seen[n] {
		l.doubled++
		return n, false
	}
	l.seen[n] = true
	l.distinct++
	return n, true
}

// count returns how many different events have arrived.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.distinct
}

// check fails unless exactly the events 0 to n-1 arrived, each once.
func (l *ledger) check(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := 0
	for i := range n {
		if i >= len(l.seen) || !l.seen[i] {
			lost++
		}
	}
	unknown := l.strangers + l.distinct - (n - lost)
	if lost+l.doubled+unknown > 0 {
		return fmt.Errorf("of %d events %d are lost and %d arrived twice; %d belong to another run", n, lost, l.doubled,
			unknown)
	}
	return nil
}
