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
		t.Error("it queries although nobody watches")
	}
	one, two := p.join(), p.join()
	if beat(); asked != 1 || !told(one) || !told(two) {
		t.Errorf("%d queries for two viewers, or one saw no change", asked)
	}
	if beat(); told(one) || told(two) {
		t.Error("reported a change where there was none")
	}
	now = "b"
	beat()
	now = "c"
	beat() // b has not been read: that must not block
	if !told(one) || told(one) {
		t.Error("a slow stream does not get exactly one event")
	}
	fails = errors.New("away")
	beat()
	fails, now = nil, "d"
	if beat(); !told(one) {
		t.Error("a change after a failure is not reported")
	}
	p.leave(one)
	for range maxStreams - 1 {
		if p.join() == nil {
			t.Fatal("refused too early")
		}
	}
	if p.join() != nil {
		t.Errorf("%d pages are notified", maxStreams+1)
	}
	p.leave(two)
	if p.join() == nil {
		t.Error("a freed place is not given out again")
	}
}
