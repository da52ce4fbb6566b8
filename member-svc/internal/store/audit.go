package store

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Act is an operator's action and its reason. SagaID, Subject or both name its target.
type Act struct {
	Actor, Action string
	SagaID        *string
	Subject       string
	Reason        string
}

// audit queues the audit row of an act, for the transaction that performs the act.
func audit(b *pgx.Batch, a Act, before, after map[string]any) {
	b.Queue(
		"-- name: addAudit\nINSERT INTO admin_audit (actor, action, saga_id, subject, reason, before, after) VALUES "+
			"($1, $2, $3, $4, $5, $6, $7)",
		a.Actor, a.Action, a.SagaID, a.Subject, a.Reason, before, after)
}

// AuditFilter selects rows of the audit; zero fields select all.
type AuditFilter struct {
	Actor, Action, SagaID string
	Limit                 int
	Before                int64 // only rows with a smaller id; 0: all
}

// Audit returns a page of the audit, newest first, and the Before of the next page; 0 at the end.
func (s *Store) Audit(ctx context.Context, f AuditFilter) ([]wire.AuditRow, int64, error) {
	if _, err := uuid.FromString(f.SagaID); f.SagaID != "" && err != nil {
		return nil, 0, nil // no saga has such an id
	}
	if f.Before == 0 {
		f.Before = math.MaxInt64
	}
	var q query
	where := "true"
	// The row-comparison bounds and ORDER BY on the same columns force the index that begins with those
	// columns. With plain equality, Postgres may instead scan everybody's rows backwards, hoping to meet a
	// match soon, even for an operator who left long ago. Few rows belong to one saga, so plain equality is
	// fine there.
	var columns, values, order []string
	for _, by := range []struct{ column, value string }{{"actor", f.Actor}, {"action", f.Action},
		{"saga_id", f.SagaID}} {
		switch {
		case by.value == "":
		case f.SagaID != "":
			where += " AND " + by.column + " = " + q.arg(by.value)
		default:
			columns, values, order = append(columns, by.column), append(values, q.arg(by.value)),
				append(order, by.column+" DESC")
		}
	}
	row := func(columns []string, id string) string { return "(" + strings.Join(append(columns, id), ", ") + ")" }
	rows, _ := s.pool.Query(ctx, fmt.Sprintf(`-- name: listAudit
SELECT id, at, actor, action, saga_id::text, subject, reason, before, after FROM admin_audit WHERE %s
    AND %[2]s >= %[3]s AND %[2]s < %[4]s ORDER BY %[5]s LIMIT %[6]d`,
		where, row(columns, "id"), row(values, "0"), row(values, q.arg(f.Before)),
		strings.Join(append(order, "id DESC"), ", "), f.Limit+1), q.args...)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[wire.AuditRow])
	if err != nil || len(page) <= f.Limit {
		return page, 0, err
	}
	return page[:f.Limit], page[f.Limit-1].ID, nil
}
