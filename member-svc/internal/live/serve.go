package live

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/service"
)

// Serve shows v and whatever becomes of it, until it is settled. It ends earlier when
// the client is gone or does not read, when the server drains, and at the end of the
// stream's lifetime: the client then comes again, by a new connection, perhaps to
// another replica.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, v signup.View) {
	s := h.watch(v)
	defer h.unwatch(v.SignupID, s)
	out := service.OpenEvents(w, h.pace.Write)
	defer out.Close()
	beat := time.NewTicker(h.pace.Heartbeat)
	defer beat.Stop()
	end := time.NewTimer(h.pace.Lifetime)
	defer end.Stop()
	// Not all those who lose a replica come back at once.
	text := fmt.Sprintf("retry: %d\n%s", 1000+rand.IntN(2000), event(v))
	for {
		if err := out.Write(text); err != nil || v.State.Settled() {
			return
		}
		select {
		case v = <-s.news:
			text = event(v)
		case <-beat.C:
			text = service.Heartbeat
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
