package main

import (
	"net/http"
	"strconv"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

// handler serves the probes, and the two calls of reconciliation for callers with the token.
func (m *mailboxes) handler(tokens *service.Tokens, health *service.Health) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", health.LiveHandler)
	mux.HandleFunc("GET /readyz", health.ReadyHandler)
	guarded := tokens.Require(service.RoleOperator)
	mux.Handle("GET /v1/storages", guarded(service.Adapt(m.log, nil, m.list)))
	mux.Handle("GET /v1/storages/{member_id}", guarded(service.Adapt(m.log, nil, m.get)))
	return mux
}

func (m *mailboxes) get(w http.ResponseWriter, r *http.Request) error {
	missing := service.NewProblem(http.StatusNotFound, "not_found", "there is no such mailbox")
	id, err := uuid.FromString(r.PathValue("member_id"))
	if err != nil {
		return missing
	}
	found, err := m.read(r, "member_id = $1 AND $2 > 0", id.String(), 1)
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return missing
	}
	return service.WriteJSON(w, http.StatusOK, found[0])
}

// list returns mailboxes in the order of their members' ids. A full page has a cursor.
func (m *mailboxes) list(w http.ResponseWriter, r *http.Request) error {
	after, err := uuid.FromString(r.FormValue("cursor"))
	if err != nil {
		after = uuid.Nil
	}
	limit, err := strconv.Atoi(r.FormValue("limit"))
	if err != nil || limit < 1 || limit > 1000 {
		limit = 100
	}
	var page wire.Page[wire.MemberStorage]
	if page.Items, err = m.read(r, "member_id > $1 ORDER BY member_id LIMIT $2", after.String(), limit); err != nil {
		return err
	}
	if len(page.Items) == limit {
		page.NextCursor = wire.Cursor(page.Items[limit-1].MemberID)
	}
	return service.WriteJSON(w, http.StatusOK, page)
}

// read returns the fields of mailboxes that reconciliation needs.
func (m *mailboxes) read(r *http.Request, which string, args ...any) ([]wire.MemberStorage, error) {
	rows, err := m.pool.Query(r.Context(), `-- name: readMailboxes
SELECT member_id::text, saga_id::text, generation, desired, CASE desired WHEN 'present' THEN 'ready' ELSE 'absent'
    END AS status
FROM mailbox WHERE `+which, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByNameLax[wire.MemberStorage])
}
