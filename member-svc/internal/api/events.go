package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/service"
)

// streamRetry is when a client may retry if there was no slot for its stream.
const streamRetry = 5 * time.Second

// streamSignup streams a signup until it is settled.
func (a *API) streamSignup(w http.ResponseWriter, r *http.Request) error {
	ctx, end := context.WithCancel(r.Context())
	defer end()
	r = r.WithContext(ctx)
	slot, grant := a.streams.Acquire(service.ClientAddress(r), end)
	switch grant {
	case service.Full:
		return later(service.NewProblem(http.StatusServiceUnavailable, "busy", "too many streams are open"),
			streamRetry)
	case service.NetworkFull:
		return limited(streamRetry)
	case service.Granted:
	}
	slot.SetBusy(true) // taken back only if its network holds more than others
	defer slot.Release()
	view, err := a.Signups.Find(r.Context(), chi.URLParam(r, "signup_id"))
	if err != nil {
		return err
	}
	if view.Settled() && r.Header.Get("Last-Event-ID") == strconv.FormatInt(view.Version, 10) {
		w.WriteHeader(http.StatusNoContent) // tells the client not to reconnect
		return nil
	}
	a.Hub.Serve(w, r, view)
	return nil
}
