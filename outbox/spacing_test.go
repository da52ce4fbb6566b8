package outbox

import (
	"testing"
	"time"
)

// Reads stay at least Spacing apart, however often the relay is woken.
func TestReadsAreSpaced(t *testing.T) {
	b := newBench(t)
	const spacing = 50 * time.Millisecond
	reads := make(chan time.Time, 5)
	var r *Relay
	r = b.relay(Hooks{Fault: func(point string) error {
		r.Wake()
		if point == "read" {
			select {
			case reads <- time.Now():
			default:
			}
		}
		return nil
	}})
	r.Spacing = spacing
	b.run(r)
	last := <-reads
	for range cap(reads) - 1 {
		next := <-reads
		if d := next.Sub(last); d < spacing {
			t.Errorf("read again after %s", d)
		}
		last = next
	}
}

// A backlog is published without the pauses.
func TestBacklogIsNotSpaced(t *testing.T) {
	b := newBench(t)
	const backlog = 2*maxBatch + 1
	b.exec(b.pool, `INSERT INTO outbox_event_essential (event_id, key, type, headers, payload)
SELECT gen_random_uuid(), 'k', 't', '{}', '' FROM generate_series(1, $1::int)`, backlog)
	r := b.relay(Hooks{})
	r.Spacing = time.Hour
	b.run(r)
	b.published()
	if n := len(b.stored()); n != backlog {
		t.Errorf("%d events in the stream, want %d", n, backlog)
	}
}
