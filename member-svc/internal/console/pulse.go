package console

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// Pulse tells open pages that something has changed. However many pages are open, it polls once per interval,
// and not at all while none is open. It is safe for concurrent use.
type Pulse struct {
	read func(context.Context) (string, error)

	mu      sync.Mutex
	last    string
	streams map[chan struct{}]struct{}
}

// NewPulse returns a pulse. The caller must call [Pulse.Poll] at an interval. read returns a fingerprint that changes
// whenever anything changes.
func NewPulse(read func(context.Context) (string, error)) *Pulse {
	return &Pulse{read: read, streams: make(map[chan struct{}]struct{})}
}

// Poll reads the fingerprint, if any page is open. It is a step for a loop.
func (p *Pulse) Poll(ctx context.Context) (more bool, err error) {
	if p.watched() == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, pulseTimeout)
	defer cancel()
	now, err := p.read(ctx)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now == p.last {
		return false, nil
	}
	p.last = now
	for s := range p.streams {
		select {
		case s <- struct{}{}:
		default: // the page has not read the previous change: one is enough
		}
	}
	return false, nil
}

func (p *Pulse) watched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.streams)
}

// subscribe returns a channel that receives changes, or nil if too many pages are open.
func (p *Pulse) subscribe() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) >= maxStreams {
		return nil
	}
	s := make(chan struct{}, 1)
	p.streams[s] = struct{}{}
	return s
}

func (p *Pulse) unsubscribe(s chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, s)
}

const (
	maxStreams   = 256 // open pages of one process
	pulseTimeout = 2 * time.Second
)

// streamChanges sends an event whenever something has changed, without saying what. A stream ends after its lifetime,
// so that the session is checked again.
func (c *Console) streamChanges(w http.ResponseWriter, r *http.Request) {
	changes := c.cfg.Pulse.subscribe()
	if changes == nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer c.cfg.Pulse.unsubscribe(changes)
	service.StreamEvents(w, r, service.DefaultEventPace, service.Event{Text: "retry: 2000\n\n"}, changes,
		func(struct{}) service.Event {
			return service.Event{Text: "event: changed\ndata: {}\n\n"}
		})
}
