package console

import (
	"context"
	"errors"
	"testing"
)

func TestPulseAsksOnceForAllViewers(t *testing.T) {
	asked, now, fails := 0, "a", error(nil)
	p := NewPulse(func(context.Context) (string, error) { asked++; return now, fails }, 0)
	beat := func() {
		t.Helper()
		if err := p.beat(t.Context()); !errors.Is(err, fails) {
			t.Fatal(err)
		}
	}
	told := func(s chan struct{}) bool {
		select {
		case <-s:
			return true
		default:
			return false
		}
	}
	if beat(); asked != 0 {
		t.Error("it asks though nobody looks")
	}
	one, two := p.join(), p.join()
	if beat(); asked != 1 || !told(one) || !told(two) {
		t.Errorf("asked %d times for two; or one was not told", asked)
	}
	if beat(); told(one) || told(two) {
		t.Error("told of no change")
	}
	now = "b"
	beat()
	now = "c"
	beat() // b has not been read: that must not block
	if !told(one) || told(one) {
		t.Error("a slow one is not told once")
	}
	fails = errors.New("away")
	beat()
	fails, now = nil, "d"
	if beat(); !told(one) {
		t.Error("a change after a failure is not told")
	}
	p.leave(one)
	for range maxStreams - 1 {
		if p.join() == nil {
			t.Fatal("refused too early")
		}
	}
	if p.join() != nil {
		t.Errorf("%d pages are told", maxStreams+1)
	}
	p.leave(two)
	if p.join() == nil {
		t.Error("a place that was left is not given again")
	}
}
