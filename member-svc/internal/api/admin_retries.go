package api

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-chi/chi/v5"
	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// Defaults and limits of a group retry.
const (
	defaultRetryRate, maxRetryRate = 10, 200 // sagas per second
	defaultStopAfter               = 10      // failures
)

// checkRetry parses the filter of a group retry and validates its other fields.
func checkRetry(q wire.NewGroupRetry) (f store.Filter, err error) {
	if q.Filter == nil {
		return f, service.Invalid("/filter", "must say which sagas; {} selects all that need attention")
	}
	values := url.Values{}
	for name, value := range q.Filter {
		values.Set(name, value)
	}
	if err := selection(&f).Read(values, "/filter"); err != nil {
		return f, err
	}
	id := uuid.FromStringOrNil(q.ID)
	switch {
	case q.ID != "" && (id.Version() != uuid.V7 || id.String() != q.ID): // lists are ordered by it
		return f, service.Invalid("/id", "must be a UUID of version 7, in lower case")
	case f.State != "" && f.State != saga.NeedsAttention && f.State != saga.WithdrawNeedsAttention:
		return f, service.Invalid("/filter/state", "only sagas that need attention can be retried")
	case q.Rate < 1 || q.Rate > maxRetryRate:
		return f, service.Invalid("/rate_per_second", "must be 1 to "+strconv.Itoa(maxRetryRate))
	case q.StopAfter < 1 || q.StopAfter > store.MaxMatched:
		return f, service.Invalid("/stop_after_failures", "must be 1 to "+strconv.Itoa(store.MaxMatched))
	case q.DryRun:
		return f, nil
	}
	return f, checkReason(q.Reason)
}

func (a *API) beginRetry(w http.ResponseWriter, r *http.Request) error {
	body := wire.NewGroupRetry{Rate: defaultRetryRate, StopAfter: defaultStopAfter}
	if err := service.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	f, err := checkRetry(body)
	if err != nil {
		return err
	}
	if body.DryRun {
		n, err := a.Store.CountRetryable(r.Context(), f)
		if err != nil {
			return err
		}
		return service.WriteJSON(w, http.StatusOK, map[string]int{"matched": n})
	}
	actor, _ := service.Actor(r.Context())
	retry, err := a.Store.BeginRetry(r.Context(), actor, body, f)
	if err != nil {
		return err
	}
	w.Header().Set("Location", service.PathPrefix(r)+"/admin/v1/retries/"+retry.ID)
	return service.WriteJSON(w, http.StatusAccepted, retry)
}

func (a *API) showRetry(w http.ResponseWriter, r *http.Request) error {
	retry, err := a.Store.Retry(r.Context(), chi.URLParam(r, "id"))
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, retry)
}

func (a *API) listRetries(w http.ResponseWriter, r *http.Request) error {
	n, after := defaultLimit, uuid.Max
	if err := service.ReadQuery(r, service.Params{"limit": service.Limit(&n, maxLimit),
		"cursor": service.Parsed(&after, uuid.FromString)}); err != nil {
		return err
	}
	page, next, err := a.Store.Retries(r.Context(), after.String(), n)
	if err != nil {
		return err
	}
	return service.WritePage(w, page, next)
}

// cancelRetry accepts a reason but does not require one: an operator who sees damage being done should not have
// to explain first.
func (a *API) cancelRetry(w http.ResponseWriter, r *http.Request) error {
	why := "not given"
	if r.ContentLength != 0 {
		var err error
		if why, err = reason(w, r); err != nil {
			return err
		}
	}
	actor, _ := service.Actor(r.Context())
	retry, err := a.Store.CancelRetry(r.Context(), chi.URLParam(r, "id"), actor, why)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusAccepted, retry)
}
