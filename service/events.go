package service

import (
	"io"
	"net/http"
	"time"
)

// Heartbeat is a comment in a stream of events: it tells either end that the other one
// is still there.
const Heartbeat = ":\n\n"

// EventWriter writes Server-Sent Events to a client that may not read.
type EventWriter struct {
	w       io.Writer
	control *http.ResponseController
	timeout time.Duration
}

// OpenEvents begins a response of events, each of which the client has to take within
// timeout. No proxy is to keep it for itself, and the connection is not for other
// requests afterwards. Close must be called before the handler returns.
func OpenEvents(w http.ResponseWriter, timeout time.Duration) EventWriter {
	e := EventWriter{w, http.NewResponseController(w), timeout}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Accel-Buffering", "no") // tells nginx to pass on what it has
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	return e
}

// Write sends text: whole events, or a [Heartbeat].
func (e EventWriter) Write(text string) error {
	e.extend()
	if _, err := io.WriteString(e.w, text); err != nil {
		return err
	}
	return e.control.Flush()
}

// Close leaves the client its time for the end of the response.
func (e EventWriter) Close() { e.extend() }

// extend replaces the deadline that the server has set for short responses.
func (e EventWriter) extend() { _ = e.control.SetWriteDeadline(time.Now().Add(e.timeout)) }
