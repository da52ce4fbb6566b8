package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Querier runs one query, as pools, connections and transactions do.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Status is the state of a lane in the database, whichever process relays it.
type Status struct {
	// Leader is the id of the relay that leads; empty after a hand-over.
	Leader string
	// Lag is an upper bound of the number of committed events not yet
	// published: rolled-back ids count until the relay has passed them.
	Lag int64
	// OldestPending is when the oldest unpublished event was appended; zero when all are published. It does not
	// count events in gaps: those of transactions that stayed open while later events were published.
	OldestPending time.Time
	// Appended is the id of the newest event: roughly the number of events ever appended, as ids of rolled-back
	// transactions count too.
	Appended int64
	// Gaps is the number of ranges of missing ids that the relay still queries for.
	Gaps int64
	// PublishedAt is when the relay last wrote a checkpoint, by the database's clock.
	PublishedAt time.Time
	// Dead is the number of dead events: they cannot be published for a defect of their own.
	Dead int64
}

// ReadStatus reads a lane's status in one round trip, in time independent of the number of events.
func ReadStatus(ctx context.Context, q Querier, lane string) (Status, error) {
	var s Status
	var oldest *time.Time
	if isNil(q) {
		return s, errNil("pool")
	}
	err := q.QueryRow(ctx, `-- name: laneStatus
SELECT coalesce(c.leader::text, ''), greatest(m.id - c.hi, 0), o.created_at, m.id,
    (SELECT json_array_length(g.gaps) FROM `+table("checkpoint", lane)+` g WHERE g.n = coalesce(c.gaps_at, c.n)),
    c.published_at, (SELECT count(*) FROM `+table("dead", lane)+`)
FROM (SELECT * FROM `+table("checkpoint", lane)+` ORDER BY n DESC LIMIT 1) c
CROSS JOIN (SELECT coalesce(max(id), 0) AS id FROM `+table("event", lane)+`) m
LEFT JOIN LATERAL (SELECT e.created_at FROM `+table("event",
		lane)+` e WHERE e.id > c.hi ORDER BY e.id LIMIT 1) o ON true`).
		Scan(&s.Leader, &s.Lag, &oldest, &s.Appended, &s.Gaps, &s.PublishedAt, &s.Dead)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, fmt.Errorf("lane %s has no checkpoint: was outbox_create_lane called?", lane)
	}
	if err != nil {
		return s, fmt.Errorf("status of lane %s: %w", lane, err)
	}
	if oldest != nil {
		s.OldestPending = *oldest
	}
	return s, nil
}
