package service

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestGatherLingersWhileMessagesComeThick(t *testing.T) {
	for name, c := range map[string]struct {
		last, ready, later, want int
		takes                    time.Duration
	}{
		"a lone message is handled at once":    {last: 1, later: 2, want: 1},
		"what has arrived is taken":            {last: 1, ready: 2, later: 2, want: 3},
		"after several, others are waited for": {last: 2, later: 2, want: 3, takes: 10 * time.Millisecond},
		"a full batch is not kept waiting":     {last: 2, ready: 1, later: 3, want: 4, takes: 2 * time.Millisecond},
		"a late message is for the next batch": {last: 2, later: 0, want: 1, takes: 10 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &consumerSession{consumer: &consumer{cfg: ConsumerConfig{Batch: 4, Linger: 10 * time.Millisecond}},
					last: c.last}
				more := make(chan jetstream.Msg, c.ready+c.later)
				for range c.ready {
					more <- nil
				}
				var sender sync.WaitGroup
				defer sender.Wait()
				sender.Go(func() {
					for range c.later {
						<-time.After(time.Millisecond)
						more <- nil
					}
				})
				began := time.Now()
				batch := s.gather(t.Context(), nil, more)
				if took := time.Since(began); len(batch) != c.want || s.last != c.want || took != c.takes {
					t.Errorf("%d messages after %s, want %d after %s", len(batch), took, c.want, c.takes)
				}
			})
		})
	}
}
