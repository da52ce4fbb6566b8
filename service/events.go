package service

import (
	"io"
	"net/http"
	"time"
)

// EventPace says how a stream of events goes on.
type EventPace struct {
	Heartbeat time.Duration // a comment after each, so that either end learns that the other one is gone
	Write     time.Duration // within which a client has to take what is written
	Lifetime  time.Duration // after which a stream ends, and the client comes again
}

// Event is text for a client of Server-Sent Events: fields of one event or more, each
// closed by an empty line.
type Event struct {
	Text string
	Last bool // nothing follows
}

// StreamEvents answers with first and then with what event makes of each piece of news,
// up to the last one. It ends earlier when the client is gone or does not read, when the
// server drains, and at the end of the lifetime. No proxy is to keep the response for
// itself, and a connection of HTTP/1.1 is not for other requests afterwards.
func StreamEvents[T any](
	w http.ResponseWriter, r *http.Request, pace EventPace, first Event, news <-chan T, event func(T) Event,
) {
	control := http.NewResponseController(w)
	// In place of the deadline that the server has set for short responses; once more for the end of the response.
	extend := func() { _ = control.SetWriteDeadline(time.Now().Add(pace.Write)) }
	defer extend()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Accel-Buffering", "no") // tells nginx to pass on what it has
	if r.ProtoMajor == 1 {                    // with HTTP/2 it would send all other streams away, too
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
