package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Requeue appends the content of a dead event again, as a new row with the same event id, and deletes it from
// the table outbox_dead_<lane>. row is the id column of that table. Call it once the cause is removed: a limit
// was raised, a subject was added to the stream. The error wraps [pgx.ErrNoRows] if the row is not, or no
// longer, dead.
func Requeue(ctx context.Context, tx pgx.Tx, lane string, row int64) error {
	if isNil(tx) {
		return errNil("transaction")
	}
	err := tx.QueryRow(ctx, `-- name: requeueEvent
WITH risen AS (DELETE FROM `+table("dead", lane)+` WHERE id = $1 RETURNING id)
INSERT INTO `+table("event", lane)+` (event_id, key, type, headers, payload)
SELECT event_id, key, type, headers, payload
    FROM `+table("event", lane)+` JOIN risen USING (id) RETURNING id`, row).Scan(&row)
	if err != nil {
		return fmt.Errorf("requeue event %d of lane %s: %w", row, lane, err)
	}
	return nil
}

// ReplaySince makes the lane's relay publish again every event that was published since then and is still in the
// table, with the old ids: for a consumer that lost its data. Dead events are included; those that the stream
// now accepts are no longer dead. The relay that leads notices within seconds.
func ReplaySince(ctx context.Context, pool *pgxpool.Pool, lane string, since time.Time) error {
	if pool == nil {
		return errNil("pool")
	}
	c := checkpoints{pool: pool, lane: lane}
	for {
		p, _, err := c.newest(ctx)
		if err != nil {
			return err
		}
		old, _, err := c.replayStart(ctx, 0, &since)
		if err != nil {
			return err
		}
		dead, err := c.deadAfter(ctx, old)
		if err != nil {
			return err
		}
		old.streamID, old.streamSeq = p.streamID, p.streamSeq
		if _, err = c.insert(ctx, p, old, nil, nil, dead); !errors.Is(err, errSuperseded) {
			return err // nil, or an error other than losing to the relay
		}
	}
}
