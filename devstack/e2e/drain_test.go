package e2e

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestDrainUnderLoad stops one of two replicas while people sign up at both. Until it has ended, every request
// is answered; afterwards, connections are refused. The other replica completes every signup that it accepted.
func TestDrainUnderLoad(t *testing.T) {
	const (
		clients = 4
		bound   = 20_000 // limit of requests, in case the replica never stops
	)
	s := startStack(t, noTimers, "--members", "2")
	b := newBook(t)
	var mu sync.Mutex
	var all []person
	var requests, duringDrain atomic.Int64
	var draining atomic.Bool
	var wg sync.WaitGroup
	for range clients {
		client := newClient(b, new(tries), s.env["MEMBER_URL_2"])
		client.patience = 0
		wg.Go(func() {
			defer client.http.CloseIdleConnections()
			for requests.Add(1) < bound {
				p, err := client.signUp(t.Context(), false)
				if errors.Is(err, syscall.ECONNREFUSED) {
					return
				}
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
				mu.Lock()
				all = append(all, p)
				mu.Unlock()
				if draining.Load() {
					duringDrain.Add(1)
				}
			}
			t.Error("the replica never refused a connection")
		})
	}
	eventually(t, time.Minute, "some load", func() bool { mu.Lock(); defer mu.Unlock(); return len(all) > 200 })
	draining.Store(true)
	s.operate("stop", "member-2") // returns when the process has ended
	wg.Wait()
	s.goneAway("member-2", s.env["MEMBER_URL_2"])
	if duringDrain.Load() == 0 {
		t.Error("nothing was accepted after the signal: the drain was not under load")
	}
	t.Logf("%d signups, %d of them after the signal", len(all), duringDrain.Load())
	if t.Failed() {
		return
	}
	began := time.Now()
	s.audit(b, all)
	if waited := time.Since(began); waited > 15*time.Second {
		t.Errorf(
			"ready after %s: the replica took messages with it, and only the deadline of their acknowledgement "+
				"freed them", waited)
	}
}
