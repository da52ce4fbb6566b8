package stream

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/service"
)

// Serve streams v and its changes until the signup is settled or the stream ends, see [service.StreamEvents].
// The client then reconnects, perhaps to another replica.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, v signup.View) {
	s := h.watch(v)
	defer h.unwatch(v.SignupID, s)
	below := func(v signup.View) service.Event { return event(v.Below(service.PathPrefix(r))) }
	first := below(v)
	// Clients of a stopped replica must not all reconnect at once.
	first.Text = fmt.Sprintf("retry: %d\n%s", 1000+rand.IntN(2000), first.Text)
	service.StreamEvents(w, r, h.pace.EventPace, first, s.news, below)
}

func event(v signup.View) service.Event {
	data, _ := json.Marshal(v) // a View always encodes
	return service.Event{Text: fmt.Sprintf("event: state\nid: %d\ndata: %s\n\n", v.Version, data), Last: v.Settled()}
}
