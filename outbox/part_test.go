package outbox

import (
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A few events are published one by one. If the broker refuses one of them, the relay finds those already stored
// when the broker accepts the rest.
func TestFewEventsStoredInPart(t *testing.T) {
	b := newBench(t)
	js, err := jetstream.New(b.connect())
	if err != nil {
		t.Fatal(err)
	}
	tight := StreamConfig(b.stream, []string{b.prefix() + ">"}, 1)
	tight.MaxMsgs = 2
	if _, err := js.CreateStream(t.Context(), tight); err != nil {
		t.Fatal(err)
	}
	want := b.commit(5)
	var refused, recovered atomic.Int64
	b.start(Hooks{
		Recovered: func(n int) { recovered.Add(int64(n)) },
		Fault: func(point string) error {
			if point == "publish" {
				refused.Add(1)
			}
			return nil
		},
	})
	// The third attempt begins only after the second one failed and the relay read the stream again.
	b.eventually("three attempts at a full stream", func() bool { return refused.Load() >= 3 })
	if recovered.Load() != 2 {
		t.Errorf("recovered %d events while the stream was full, want the 2 that it took", recovered.Load())
	}
	tight.MaxMsgs = -1
	if _, err := js.UpdateStream(t.Context(), tight); err != nil {
		t.Fatal(err)
	}
	b.published()
	b.wantExactly(want)
}

// An event that exceeds the stream's own size limit does not hold up the lane.
func TestStreamsOwnLimitOfSize(t *testing.T) {
	b := newBench(t)
	js, err := jetstream.New(b.connect())
	if err != nil {
		t.Fatal(err)
	}
	small := StreamConfig(b.stream, []string{b.prefix() + ">"}, 1)
	small.MaxMsgSize = 4096
	if _, err := js.CreateStream(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	b.start(Hooks{})
	large, good := event("k", 1), event("k", 2)
	large.Payload = make([]byte, 4096)
	tx := b.begin()
	b.append(tx, large, good)
	b.end(tx.Commit)
	b.published()
	b.wantExactly([]string{good.ID})
	if s, err := ReadStatus(t.Context(), b.pool, lane); err != nil || s.Dead != 1 {
		t.Errorf("%d dead events, err %v, want 1", s.Dead, err)
	}
}
