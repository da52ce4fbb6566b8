package console

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// Pulse tells open pages that something has changed. However many pages are open, it asks once per interval,
// and not at all while none is open. It is safe for concurrent use.
type Pulse struct {
	ask   func(context.Context) (string, error)
	every time.Duration

	mu      sync.Mutex
	last    string
	streams map[chan struct{}]struct{}
}

// NewPulse returns a pulse. The caller must run [Pulse.Run]. ask returns a fingerprint that changes whenever
// anything changes.
func NewPulse(ask func(context.Context) (string, error), every time.Duration) *Pulse {
	return &Pulse{ask: ask, every: every, streams: make(map[chan struct{}]struct{})}
}

// Run asks until ctx ends.
func (p *Pulse) Run(ctx context.Context, log *slog.Logger) error {
	service.Loop(ctx, "console pulse", p.every, nil, log,
		func(ctx context.Context) (bool, error) { return false, p.beat(ctx) })
	return nil
}

func (p *Pulse) beat(ctx context.Context) error {
	if p.watched() == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pulseTimeout)
	defer cancel()
	now, err := p.ask(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now == p.last {
		return nil
	}
	p.last = now
	for s := range p.streams {
		select {
		case s <- struct{}{}:
		default: // the page has not read the previous change: one is enough
		}
	}
	return nil
}

func (p *Pulse) watched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.streams)
}

// join returns a channel that receives changes, or nil if too many pages are open.
func (p *Pulse) join() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) >= maxStreams {
		return nil
	}
	s := make(chan struct{}, 1)
	p.streams[s] = struct{}{}
	return s
}

func (p *Pulse) leave(s chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, s)
}

const (
	maxStreams   = 256 // open pages of one process
	pulseTimeout = 2 * time.Second
)

// streamPace ends a stream after its lifetime, so that the session is checked again.
var streamPace = service.EventPace{Heartbeat: 15 * time.Second, Write: 10 * time.Second, Lifetime: 10 * time.Minute}

// streamChanges sends an event whenever something has changed, without saying what.
func (c *Console) streamChanges(w http.ResponseWriter, r *http.Request) {
	changes := c.cfg.Pulse.join()
	if changes == nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer c.cfg.Pulse.leave(changes)
	service.StreamEvents(w, r, streamPace, service.Event{Text: "retry: 2000\n\n"}, changes,
		func(struct{}) service.Event {
			return service.Event{Text: "event: changed\ndata: {}\n\n"}
		})
}
