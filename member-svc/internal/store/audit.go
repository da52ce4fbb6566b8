package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
)

// Act is what somebody did, and why. Either SagaID or Subject says to what.
type Act struct {
	Actor, Action string
	SagaID        *string
	Subject       string
	Reason        string
}

// audit queues the row that tells of an act, for the transaction that does it.
func audit(b *pgx.Batch, a Act, before, after map[string]any) {
	b.Queue("-- name: addAudit\nINSERT INTO admin_audit (actor, action, saga_id, subject, reason, before, after) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		a.Actor, a.Action, a.SagaID, a.Subject, a.Reason, before, after)
}

// AuditRow is a row of the audit.
type AuditRow struct {
	ID      int64           `json:"id"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Action  string          `json:"action"`
	SagaID  *string         `json:"saga_id"`
	Subject string          `json:"subject"`
	Reason  string          `json:"reason"`
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
}

// AuditFilter selects rows of the audit; zero fields select all.
type AuditFilter struct {
	Actor, Action, SagaID string
	Limit                 int
	Before                int64 // only rows with a smaller id; 0: all
}

// Audit returns a page of the audit, newest first, and the id to go on before; 0 at the end.
func (s *Store) Audit(ctx context.Context, f AuditFilter) ([]AuditRow, int64, error) {
	var q query
	where := []string{"true"}
	if f.Before != 0 {
		where = append(where, "id < "+q.arg(f.Before))
	}
	if f.SagaID != "" {
		if _, err := uuid.FromString(f.SagaID); err != nil {
			return nil, 0, nil // nobody ever did anything to it
		}
		where = append(where, "saga_id = "+q.arg(f.SagaID))
	}
	if f.Actor != "" {
		where = append(where, "actor = "+q.arg(f.Actor))
	}
	if f.Action != "" {
		where = append(where, "action = "+q.arg(f.Action))
	}
	rows, err := s.pool.Query(ctx, fmt.Sprintf(`-- name: listAudit
SELECT id, at, actor, action, saga_id::text, subject, reason, before, after FROM admin_audit WHERE %s ORDER BY id DESC LIMIT %d`,
		strings.Join(where, " AND "), f.Limit+1), q.args...)
	if err != nil {
		return nil, 0, err
	}
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[AuditRow])
	if err != nil || len(page) <= f.Limit {
		return page, 0, err
	}
	return page[:f.Limit], page[f.Limit-1].ID, nil
}
