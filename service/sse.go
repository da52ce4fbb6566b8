package service

import (
	"io"
	"net/http"
	"time"
)

// EventPace sets the timing of an event stream.
type EventPace struct {
	Heartbeat time.Duration // interval of comments, by which each end detects that the other is gone
	Write     time.Duration // time within which a client must accept each write
	Lifetime  time.Duration // time after which the stream ends and the client reconnects
}

// DefaultEventPace suits streams of a service.
var DefaultEventPace = EventPace{Heartbeat: 15 * time.Second, Write: 10 * time.Second, Lifetime: 10 * time.Minute}

// Event is text for a client of Server-Sent Events: the fields of one or more events, each ended by an empty
// line.
type Event struct {
	Text string // as it is sent
	Last bool   // nothing follows
}

// StreamEvents sends first, and then event(n) for each n from news, up to an Event that is Last. It ends
// earlier when the client disconnects or does not read, when the server drains, and at the end of the lifetime.
// Its headers tell proxies not to buffer the response and, with HTTP/1.1, not to reuse the connection
// afterwards.
func StreamEvents[T any](
	w http.ResponseWriter, r *http.Request, pace EventPace, first Event, news <-chan T, event func(T) Event,
) {
	control := http.NewResponseController(w)
	// Replaces the deadline that the server has set for short responses; called once more for the end of the
	// response.
	extend := func() { _ = control.SetWriteDeadline(time.Now().Add(pace.Write)) }
	defer extend()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Accel-Buffering", "no") // tells nginx not to buffer
	if r.ProtoMajor == 1 {                    // with HTTP/2 it would end all other streams, too
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	beat := time.NewTicker(pace.Heartbeat)
	defer beat.Stop()
	end := time.NewTimer(pace.Lifetime)
	defer end.Stop()
	for next := first; ; {
		extend()
		if _, err := io.WriteString(w, next.Text); err != nil || control.Flush() != nil || next.Last {
			return
		}
		select {
		case n := <-news:
			next = event(n)
		case <-beat.C:
			next = Event{Text: ":\n\n"}
		case <-end.C:
			return
		case <-Draining(r.Context()):
			return
		case <-r.Context().Done():
			return
		}
	}
}
