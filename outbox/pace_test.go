package outbox

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A backlog is drained in large batches, but in smaller ones while events are being committed.
func TestBacklogGivesWayToCommits(t *testing.T) {
	for name, live := range map[string]bool{"quiet": false, "live": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			const backlog = 5000
			b.exec(b.pool, `INSERT INTO outbox_event_essential (event_id, key, type, headers, payload)
SELECT gen_random_uuid(), 'k', 't', '{}', '' FROM generate_series(1, $1::int)`, backlog)
			var mu sync.Mutex
			var sizes []int
			var r *Relay
			r = b.relay(Hooks{Published: func(batch []*nats.Msg, _ time.Time) {
				mu.Lock()
				defer mu.Unlock()
				sizes = append(sizes, len(batch))
				if live {
					r.Wake()
				}
			}})
			b.run(r)
			b.published()
			mu.Lock()
			defer mu.Unlock()
			// The first two may have been read before the first wake-up.
			late := sizes[2:]
			for i, n := range late[:len(late)-1] {
				if want := map[bool]int{false: maxBatch, true: liveBatch}[live]; n != want {
					t.Errorf("batch %d has %d events, want %d", i+3, n, want)
				}
			}
			if n := len(b.stored()); n != backlog {
				t.Errorf("%d events in the stream, want %d", n, backlog)
			}
		})
	}
}
