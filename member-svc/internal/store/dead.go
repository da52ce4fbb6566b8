package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/outbox"
)

// DeadID identifies a dead event: its lane and its row there.
type DeadID struct {
	Lane string
	Row  int64
}

// String returns the id as one word, "essential-12".
func (d DeadID) String() string { return d.Lane + "-" + strconv.FormatInt(d.Row, 10) }

// ParseDeadID reads what String wrote; [ErrNotFound] for anything else.
func ParseDeadID(text string) (DeadID, error) {
	lane, row, _ := strings.Cut(text, "-")
	n, err := strconv.ParseInt(row, 10, 64)
	if err != nil || (lane != string(contract.Essential) && lane != string(contract.NonEssential)) {
		return DeadID{}, ErrNotFound
	}
	return DeadID{lane, n}, nil
}

// deadRow is a dead event and its row in the lane's table.
type deadRow struct {
	wire.DeadEvent
	Row int64
}

func (d deadRow) event() wire.DeadEvent {
	d.ID = DeadID{d.Lane, d.Row}.String()
	return d.DeadEvent
}

// deadEvents selects up to limit of a lane, newest first.
func deadEvents(lane contract.Lane, where string, limit int) string {
	return fmt.Sprintf(
		`(SELECT '%[1]s' AS lane, d.id AS row, d.event_id::text, d.type, (SELECT key FROM outbox_event_%[1]s e
		    WHERE e.id = d.id) AS key, d.error, d.died_at
 FROM outbox_dead_%[1]s d WHERE %[2]s ORDER BY d.id DESC LIMIT %[3]d)`, lane, where, limit)
}

// Dead returns a page of dead events, the essential lane first, each lane's newest first. It also returns the
// last one's id if there are more. A zero after starts at the beginning.
func (s *Store) Dead(ctx context.Context, after DeadID, limit int) ([]wire.DeadEvent, *DeadID, error) {
	var q query
	var parts []string
	for _, lane := range contract.Lanes() { // sorted by name
		switch {
		case string(lane) == after.Lane:
			parts = append(parts, deadEvents(lane, "d.id < "+q.arg(after.Row), limit+1))
		case string(lane) > after.Lane:
			parts = append(parts, deadEvents(lane, "true", limit+1))
		}
	}
	rows, _ := s.pool.Query(ctx,
		fmt.Sprintf("-- name: listDead\nSELECT * FROM (%s) d ORDER BY lane, row DESC LIMIT %d",
			strings.Join(parts, " UNION ALL "), limit+1), q.args...)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[deadRow])
	page := column(found[:min(limit, len(found))], deadRow.event)
	if err != nil || len(found) <= limit {
		return page, nil, err
	}
	return page, &DeadID{found[limit-1].Lane, found[limit-1].Row}, nil
}

// Requeue publishes a dead event again and returns the event as it was. The error is [ErrNotFound] if the event
// is not dead, or no longer.
func (s *Store) Requeue(ctx context.Context, id DeadID, actor, reason string) (e wire.DeadEvent, err error) {
	err = s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, "-- name: getDead\n"+deadEvents(contract.Lane(id.Lane), "d.id = $1", 1), id.Row)
		found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByNameLax[deadRow])
		if err != nil {
			return notFound(err)
		}
		e = found.event()
		b := new(pgx.Batch)
		audit(b, Act{Actor: actor, Action: "requeue", Subject: "event " + e.EventID, Reason: reason},
			map[string]any{"dead": e.ID, "type": e.Type, "error": e.Error}, map[string]any{"dead": nil})
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		return outbox.Requeue(ctx, tx, id.Lane, id.Row)
	})
	if errors.Is(err, pgx.ErrNoRows) { // another caller was faster
		err = ErrNotFound
	}
	return e, err
}
