package console

import (
	"context"
	"errors"
	"testing"
)

func TestPulseAsksOnceForAllViewers(t *testing.T) {
	asked, now, fails := 0, "a", error(nil)
	p := NewPulse(func(context.Context) (string, error) { asked++; return now, fails })
	poll := func() {
		t.Helper()
		if _, err := p.Poll(t.Context()); !errors.Is(err, fails) {
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
	if poll(); asked != 0 {
		t.Error("it queries although nobody watches")
	}
	one, two := p.subscribe(), p.subscribe()
	if poll(); asked != 1 || !told(one) || !told(two) {
		t.Errorf("%d queries for two viewers, or one saw no change", asked)
	}
	if poll(); told(one) || told(two) {
		t.Error("reported a change where there was none")
	}
	now = "b"
	poll()
	now = "c"
	poll() // b has not been read: that must not block
	if !told(one) || told(one) {
		t.Error("a slow stream does not get exactly one event")
	}
	fails = errors.New("away")
	poll()
	fails, now = nil, "d"
	if poll(); !told(one) {
		t.Error("a change after a failure is not reported")
	}
	p.unsubscribe(one)
	for range maxStreams - 1 {
		if p.subscribe() == nil {
			t.Fatal("refused too early")
		}
	}
	if p.subscribe() != nil {
		t.Errorf("%d pages are notified", maxStreams+1)
	}
	p.unsubscribe(two)
	if p.subscribe() == nil {
		t.Error("a freed place is not given out again")
	}
}
