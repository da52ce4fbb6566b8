package api

import (
	"net/http"
	"strconv"

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
		MemberID: s.MemberID, SagaID: s.SagaID, Generation: s.Generation, Desired: string(s.Desired), Status: string(s.Status),
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
	after, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	if after != "" {
		id, err := uuid.FromString(after)
		if err != nil {
			return errCursor
		}
		after = id.String()
	}
	found, err := a.Store.List(r.Context(), after, limit+1)
	if err != nil {
		return err
	}
	return writePage(w, limit, found, view, func(s provision.Storage) string { return s.MemberID })
}

var errCursor = invalid("/cursor", "cannot be read")

func invalid(pointer, detail string) *wire.Problem {
	return service.NewProblem(http.StatusUnprocessableEntity, "validation_failed", "the query is not valid", wire.FieldError{Pointer: pointer, Detail: detail})
}

// pageOf reads a query strictly: a misspelt parameter must not answer with the
// first page for ever.
func pageOf(r *http.Request) (cursor string, limit int, err error) {
	limit = defaultLimit
	q, err := service.Query(r)
	if err != nil {
		return "", 0, err
	}
	for name, values := range q {
		if len(values) > 1 {
			return "", 0, invalid("/"+name, "is given more than once")
		}
		switch name {
		case "cursor":
			cursor = values[0]
		case "limit":
			limit, err = strconv.Atoi(values[0])
			if err != nil || limit < 1 || limit > maxLimit {
				return "", 0, invalid("/limit", "must be 1 to 1000")
			}
		default:
			return "", 0, invalid("/"+name, "is not a parameter")
		}
	}
	return cursor, limit, nil
}

// writePage writes the first limit rows; more than that say that there is
// another page, after the last row shown.
func writePage[Row, View any](w http.ResponseWriter, limit int, rows []Row, view func(Row) View, cursor func(Row) string) error {
	page := wire.Page[View]{Items: make([]View, 0, limit)}
	for _, row := range rows[:min(limit, len(rows))] {
		page.Items = append(page.Items, view(row))
	}
	if len(rows) > limit {
		page.NextCursor = wire.Cursor(cursor(rows[limit-1]))
	}
	return service.WriteJSON(w, http.StatusOK, page)
}
