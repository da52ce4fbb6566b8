package live

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/service"
)

const heartbeat = ":\n\n"

// Serve shows v and whatever becomes of it, until it is settled. It ends earlier when
// the client is gone or does not read, when the server drains, and at the end of the
// stream's lifetime: the client then comes again, by a new connection, perhaps to
// another replica.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, v signup.View) {
	s := h.watch(v)
	defer h.unwatch(v.SignupID, s)
	out := open(w, h.pace.Write)
	defer out.extend() // for the end of the response
	beat := time.NewTicker(h.pace.Heartbeat)
	defer beat.Stop()
	end := time.NewTimer(h.pace.Lifetime)
	defer end.Stop()
	// Not all those who lose a replica come back at once.
	text := fmt.Sprintf("retry: %d\n%s", 1000+rand.IntN(2000), event(v))
	for {
		if err := out.write(text); err != nil || v.State.Settled() {
			return
		}
		select {
		case v = <-s.news:
			text = event(v)
		case <-beat.C:
			text = heartbeat
		case <-end.C:
			return
		case <-service.Draining(r.Context()):
			return
		case <-r.Context().Done():
			return
		}
	}
}

func event(v signup.View) string {
	data, _ := json.Marshal(v) // a View always encodes
	return fmt.Sprintf("event: state\nid: %d\ndata: %s\n\n", v.Version, data)
}

// writer writes to a client that may not read.
type writer struct {
	w       io.Writer
	control *http.ResponseController
	timeout time.Duration
}

// open begins a response. No proxy is to keep it for itself, and the connection is not
// for other requests afterwards.
func open(w http.ResponseWriter, timeout time.Duration) writer {
	out := writer{w, http.NewResponseController(w), timeout}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Accel-Buffering", "no") // tells nginx to pass on what it has
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	return out
}

// extend replaces the deadline that the server has set for short responses.
func (o writer) extend() { _ = o.control.SetWriteDeadline(time.Now().Add(o.timeout)) }

func (o writer) write(text string) error {
	o.extend()
	if _, err := io.WriteString(o.w, text); err != nil {
		return err
	}
	return o.control.Flush()
}
