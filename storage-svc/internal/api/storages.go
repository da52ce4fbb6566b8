package api

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

func view(s provision.Storage) wire.MemberStorage {
	v := wire.MemberStorage{
		MemberID: s.MemberID, SagaID: s.SagaID, Generation: s.Generation, Desired: string(s.Desired),
		Status:     string(s.Status),
		QuotaBytes: s.QuotaBytes, Attempts: s.Attempts, OutageAttempts: s.OutageAttempts,
		LastError: s.Error(), Version: s.Version, CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(),
	}
	if s.NextAttemptAt != nil {
		utc := s.NextAttemptAt.UTC()
		v.NextAttemptAt = &utc
	}
	return v
}

func (a *API) getStorage(w http.ResponseWriter, r *http.Request) error {
	id, err := uuid.FromString(chi.URLParam(r, "member_id"))
	if err != nil {
		return store.ErrNotFound
	}
	s, err := a.Store.Get(r.Context(), id.String())
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, view(s))
}

func (a *API) listStorages(w http.ResponseWriter, r *http.Request) error {
	limit, after := defaultLimit, ""
	known := service.Params{
		"limit": service.Limit(&limit, maxLimit),
		"cursor": service.Parsed(&after, func(v string) (string, error) {
			if v == "" { // the beginning
				return "", nil
			}
			id, err := uuid.FromString(v)
			return id.String(), err
		}),
	}
	if err := service.ReadQuery(r, known); err != nil {
		return err
	}
	found, err := a.Store.List(r.Context(), after, limit+1)
	if err != nil {
		return err
	}
	return writePage(w, limit, found, view, func(s provision.Storage) string { return s.MemberID })
}

// writePage writes the first limit rows. If there are more rows than that, there is another page, which begins
// after the last row written.
func writePage[Row, View any](
	w http.ResponseWriter, limit int, rows []Row, view func(Row) View, cursor func(Row) string,
) error {
	items, next := make([]View, 0, limit), ""
	for _, row := range rows[:min(limit, len(rows))] {
		items = append(items, view(row))
	}
	if len(rows) > limit {
		next = cursor(rows[limit-1])
	}
	return service.WritePage(w, items, next)
}
