package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// A storage keeps the trace of its command, among others that have none, until a newer command comes. Each
// reply carries the trace of the message that it answers.
func TestStorageKeepsTheTraceOfItsCommand(t *testing.T) {
	f := open(t)
	parent := func(i int) string {
		return map[bool]string{true: fmt.Sprintf("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b%d-01",
			i)}[i%2 == 1]
	}
	traced := func(i int, generation int64, traceParent string) provision.Command {
		c := command(i, generation, provision.Present)
		c.TraceParent = traceParent
		return c
	}
	var commands []provision.Command
	for i := range 6 {
		commands = append(commands, traced(i, 1, parent(i)))
	}
	f.apply(commands...)
	for i := range 6 {
		if got := f.get(i).TraceParent; got != parent(i) {
			t.Errorf("storage %d keeps %q, want %q", i, got, parent(i))
		}
	}
	f.apply(traced(0, 2, parent(7)), traced(1, 2, ""), traced(2, 2, ""), traced(3, 2, parent(9)))
	for i, want := range []string{parent(7), "", "", parent(9), "", parent(5)} {
		if got := f.get(i).TraceParent; got != want {
			t.Errorf("after a newer command storage %d keeps %q, want %q", i, got, want)
		}
	}

	due := f.claim(6, time.Minute)
	i := slices.IndexFunc(due, func(s provision.Storage) bool { return s.MemberID == id(3) })
	if i < 0 || due[i].TraceParent != parent(9) {
		t.Fatalf("the worker is given %+v", due)
	}
	r := provision.Policy{}.After(due[i], nil)
	r.Reply.TraceParent = parent(3)
	f.finish(0, r)
	f.apply(traced(3, 2, parent(1))) // repeated: answered at once, with this command's trace
	var replies []string
	rows, err := f.pool.Query(t.Context(), "SELECT headers->>'traceparent' FROM outbox_event_essential ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			t.Fatal(err)
		}
		replies = append(replies, one)
	}
	if err := rows.Err(); err != nil || !slices.Equal(replies, []string{parent(3), parent(1)}) {
		t.Errorf("replies carry %q, %v", replies, err)
	}
}
