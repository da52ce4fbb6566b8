package api

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

func (a *API) listDead(w http.ResponseWriter, r *http.Request) error {
	n, after := defaultLimit, store.DeadID{}
	if err := service.ReadQuery(r, service.Params{"limit": service.Limit(&n, maxLimit),
		"cursor": service.Parsed(&after, store.ParseDeadID)}); err != nil {
		return err
	}
	page, next, err := a.Store.Dead(r.Context(), after, n)
	if err != nil {
		return err
	}
	cursor := ""
	if next != nil {
		cursor = next.String()
	}
	return service.WritePage(w, page, cursor)
}

func (a *API) requeue(w http.ResponseWriter, r *http.Request) error {
	why, err := reason(w, r)
	if err != nil {
		return err
	}
	id, err := store.ParseDeadID(chi.URLParam(r, "id"))
	if err != nil {
		return err
	}
	actor, _ := service.Actor(r.Context())
	event, err := a.Store.Requeue(r.Context(), id, actor, why)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusAccepted, event)
}

func (a *API) listAudit(w http.ResponseWriter, r *http.Request) error {
	f := store.AuditFilter{Limit: defaultLimit}
	known := service.Params{
		"actor": service.Text(&f.Actor), "action": service.Text(&f.Action), "saga_id": service.Text(&f.SagaID),
		"limit": service.Limit(&f.Limit, maxLimit),
		"cursor": service.Parsed(&f.Before, func(v string) (int64, error) {
			id, err := strconv.ParseInt(v, 10, 64)
			if err == nil && id < 1 {
				err = errors.New("not an id")
			}
			return id, err
		}),
	}
	if err := service.ReadQuery(r, known); err != nil {
		return err
	}
	page, next, err := a.Store.Audit(r.Context(), f)
	if err != nil {
		return err
	}
	cursor := ""
	if next != 0 {
		cursor = strconv.FormatInt(next, 10)
	}
	return service.WritePage(w, page, cursor)
}
