package outbox

import (
	"context"
	"fmt"
	"time"
)

const (
	retainEvery = 10 * time.Minute // how often the leader deletes what has expired
	retainChunk = 5000             // rows per delete, so that none takes long
)

// retainBeside deletes what has expired until the returned function is called.
func (r *Relay) retainBeside(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := beside(func() error {
		t := time.NewTicker(retainEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
			}
			if err := r.retain(ctx); err != nil && ctx.Err() == nil {
				r.Log.Warn("outbox: cannot delete what has expired", "err", err)
			}
		}
	})
	return func() { cancel(); _ = ended() }
}

// retain deletes published events older than r.Retention, but none that is dead,
// and checkpoints that no replay needs any more, in short statements.
func (r *Relay) retain(ctx context.Context) error {
	start, oldest, err := r.cp.replayStart(ctx, 2*r.ReplayWindow, nil)
	if err != nil {
		return err
	}
	// Whatever a replay may start from has published everything up to bound,
	// and nobody is looking for an id up to it.
	bound := start.hi
	if len(start.gaps) > 0 {
		bound = start.gaps[0].from - 1
	}
	events, err := r.deleteAll(ctx, `-- name: retainEvents
DELETE FROM `+table("event", r.Lane)+` WHERE id IN (
    SELECT id FROM `+table("event", r.Lane)+` e WHERE id <= $1
    AND NOT EXISTS (SELECT FROM `+table("dead", r.Lane)+` d WHERE d.id = e.id) ORDER BY id LIMIT `+fmt.Sprint(retainChunk)+`)
AND created_at < now() - $2::interval`, bound, r.Retention)
	if err != nil {
		return fmt.Errorf("delete expired events of lane %s: %w", r.Lane, err)
	}
	checkpoints, err := r.deleteAll(ctx, `-- name: retainCheckpoints
DELETE FROM `+table("checkpoint", r.Lane)+` WHERE n IN (
    SELECT n FROM `+table("checkpoint", r.Lane)+` WHERE n < $1 ORDER BY n LIMIT `+fmt.Sprint(retainChunk)+`)`,
		oldest)
	if err != nil {
		return fmt.Errorf("delete expired checkpoints of lane %s: %w", r.Lane, err)
	}
	if events+checkpoints > 0 {
		r.Log.Info("outbox: deleted what has expired", "events", events, "checkpoints", checkpoints)
	}
	return nil
}

// deleteAll repeats a delete until it finds less than a chunk.
func (r *Relay) deleteAll(ctx context.Context, sql string, args ...any) (total int64, err error) {
	for ctx.Err() == nil {
		chunk, cancel := context.WithTimeout(ctx, ioTimeout)
		tag, err := r.Pool.Exec(chunk, sql, args...)
		cancel()
		if err != nil {
			return total, err
		}
		total += tag.RowsAffected()
		if tag.RowsAffected() < retainChunk {
			return total, nil
		}
	}
	return total, context.Cause(ctx)
}
