// Package stream shows signups to their owners while they change, as Server-Sent Events. A process polls the
// database once per interval for changes of all signups that have a stream, however many there are; without
// streams it does not poll.
//
// Nothing waits for a client. A stream holds the newest state only: a slow client misses the states in between,
// and one that reads nothing is dropped.
package stream

import (
	"context"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// Pace configures how often a [Hub] polls and how long it waits.
type Pace struct {
	Interval time.Duration // between two polls; up to maxSkip+1 times as long while the database is slow
	Query    time.Duration // bounds one poll
	service.EventPace
}

// DefaultPace suits a service.
var DefaultPace = Pace{
	Interval: 200 * time.Millisecond, Query: 2 * time.Second,
	EventPace: service.DefaultEventPace,
}

const (
	// load bounds the time that the database spends on polls: one in load.
	load = 20
	// maxSkip bounds how many polls in a row are skipped for that.
	maxSkip = 4
)

// Hub sends changes of signups to streams. It is safe for concurrent use.
type Hub struct {
	store *store.Store
	steps saga.Steps
	pace  Pace

	mu      sync.Mutex
	watched map[string]*watched // by signup id; only those with streams
	skip    int                 // polls to skip
}

// watched is a signup that has streams.
type watched struct {
	newest  signup.View
	streams map[*stream]struct{}
}

// stream is one client's view of a signup. It has room for one view, the newest.
type stream struct{ news chan signup.View }

// NewHub returns a hub. The caller must call [Hub.Poll] at the interval of the pace.
func NewHub(st *store.Store, steps saga.Steps, pace Pace) *Hub {
	return &Hub{store: st, steps: steps, pace: pace, watched: make(map[string]*watched)}
}

// Poll asks for changes, with one query for all streams.
func (h *Hub) Poll(ctx context.Context) (more bool, err error) {
	seen := h.due()
	if len(seen) == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.pace.Query)
	defer cancel()
	began := time.Now()
	records, err := h.store.Changed(ctx, seen)
	took := time.Since(began)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.skip = int(min(took*load/h.pace.Interval, maxSkip))
	for _, r := range records {
		h.publish(signup.NewView(r, h.steps))
	}
	return false, err
}

// due returns what to poll now. After a slow answer it returns nothing for some polls.
func (h *Hub) due() []store.Seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.skip > 0 {
		h.skip--
		return nil
	}
	seen := make([]store.Seen, 0, len(h.watched))
	for id, w := range h.watched {
		seen = append(seen, store.Seen{SignupID: id, Version: w.newest.Version, Redrives: w.newest.Redrives})
	}
	return seen
}

// publish gives a view to the streams of its signup, unless they know a newer one. The caller holds h.mu.
func (h *Hub) publish(v signup.View) {
	w := h.watched[v.SignupID]
	if w == nil || !newer(v, w.newest) {
		return
	}
	w.newest = v
	for s := range w.streams {
		select {
		case <-s.news: // the client never took it: it is outdated
		default:
		}
		s.news <- v // there is room: only publish and watch send, under the lock
	}
}

func newer(a, b signup.View) bool {
	return a.Version > b.Version || a.Version == b.Version && a.Redrives > b.Redrives
}

// watch returns a stream of the changes after v.
func (h *Hub) watch(v signup.View) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publish(v) // v may be news to other streams
	w := h.watched[v.SignupID]
	if w == nil {
		w = &watched{newest: v, streams: make(map[*stream]struct{})}
		h.watched[v.SignupID] = w
	}
	s := &stream{news: make(chan signup.View, 1)}
	if newer(w.newest, v) {
		s.news <- w.newest
	}
	w.streams[s] = struct{}{}
	return s
}

func (h *Hub) unwatch(id string, s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watched[id]
	delete(w.streams, s)
	if len(w.streams) == 0 {
		delete(h.watched, id)
	}
}
