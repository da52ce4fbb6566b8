package outbox

import (
	"context"
	"fmt"
	"time"
)

const (
	retainEvery = 10 * time.Minute // how often the leader deletes what has expired
	retainChunk = 5000             // rows per delete, to keep each statement short
)

// retainBeside deletes what has expired, in a goroutine, until the returned function is called.
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
				r.Log.Warn("outbox: cannot delete expired rows", "err", err)
			}
		}
	})
	return func() { cancel(); _ = ended() }
}

// retain deletes published events older than r.Retention, except dead ones, and checkpoints that no replay needs
// any more, in short statements.
func (r *Relay) retain(ctx context.Context) error {
	start, oldest, err := r.cp.replayStart(ctx, 2*r.ReplayWindow, nil)
	if err != nil {
		return err
	}
	// Every position that a replay may start from has published everything up to bound, and has no gap up to it.
	bound := start.hi
	if len(start.gaps) > 0 {
		bound = start.gaps[0].from - 1
	}
	events, checkpoints := table("event", r.Lane), table("checkpoint", r.Lane)
	for ctx.Err() == nil {
		var e, c int64
		chunk, cancel := context.WithTimeout(ctx, ioTimeout)
		err := r.Pool.QueryRow(chunk, `-- name: retain
WITH e AS (DELETE FROM `+events+` WHERE id IN (
    SELECT id FROM `+events+` e WHERE id <= $1
    AND NOT EXISTS (SELECT FROM `+table("dead", r.Lane)+` d WHERE d.id = e.id) ORDER BY id LIMIT $4)
    AND created_at < now() - $2::interval RETURNING 1),
c AS (DELETE FROM `+checkpoints+` WHERE n IN (SELECT n FROM `+checkpoints+` WHERE n < $3
 ORDER BY n LIMIT $4) RETURNING 1)
SELECT (SELECT count(*) FROM e), (SELECT count(*) FROM c)`, bound, r.Retention, oldest, retainChunk).Scan(&e, &c)
		cancel()
		if err != nil {
			return fmt.Errorf("delete expired rows of lane %s: %w", r.Lane, err)
		}
		if e+c > 0 {
			r.Log.Info("outbox: deleted expired rows", "events", e, "checkpoints", c)
		}
		if max(e, c) < retainChunk {
			return nil
		}
	}
	return context.Cause(ctx)
}
