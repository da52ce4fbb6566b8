package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxBatch      = 1000    // what the server takes in one atomic batch
	maxBatchBytes = 8 << 20 // what one batch may hold in memory
)

// readEvents reads, in one statement and so in one snapshot, the next events
// above p.hi, those that appeared in p's gaps, and the snapshot's xmin. Every
// gap is looked at whenever later events are read: an event that committed
// before a later one of the same key is visible with it. The cost is one index
// probe per gap (hence LATERAL: a join might scan the table) and the rows found.
func readEvents(ctx context.Context, pool *pgxpool.Pool, lane string, p position) (read, error) {
	from, to := make([]int64, len(p.gaps)), make([]int64, len(p.gaps))
	for i, g := range p.gaps {
		from[i], to[i] = g.from, g.to
	}
	rows, err := pool.Query(ctx, readSQL(lane), p.hi, from, to, maxBatch, maxBatchBytes)
	if err != nil {
		return read{}, fmt.Errorf("read events of lane %s: %w", lane, err)
	}
	var (
		r          read
		kind       int
		xmin       uint64
		e          row
		bytes      int
		foundBytes int
	)
	_, err = pgx.ForEachRow(rows, []any{&kind, &xmin, &e.ID, &e.EventID, &e.Key, &e.Type, &e.Headers, &e.Payload, &e.CreatedAt}, func() error {
		switch kind {
		case 0:
			r.xmin = xmin
		case 1:
			r.found = append(r.found, e)
			foundBytes += len(e.Payload)
		case 2:
			r.fresh = append(r.fresh, e)
		}
		bytes += len(e.Payload)
		e = row{}
		return nil
	})
	if err != nil {
		return read{}, fmt.Errorf("read events of lane %s: %w", lane, err)
	}
	r.foundAll = len(r.found) < maxBatch && foundBytes < maxBatchBytes
	r.more = len(r.found)+len(r.fresh) >= maxBatch || bytes >= maxBatchBytes
	if room := maxBatch - len(r.found); r.foundAll && len(r.fresh) > room {
		r.fresh = r.fresh[:room]
	}
	return r, nil
}

// readSQL takes hi, the bounds of the gaps, and the limits of a batch. Its first
// row holds xmin.
func readSQL(lane string) string {
	events := table("event", lane)
	const columns = "e.id, e.event_id::text, e.key, e.type, e.headers, e.payload, e.created_at"
	return `-- name: readEvents
WITH next AS (
    SELECT 2 AS kind, ` + columns + ` FROM ` + events + ` e WHERE e.id > $1 ORDER BY e.id LIMIT $4),
found AS (
    SELECT 1 AS kind, ` + columns + ` FROM unnest($2::bigint[], $3::bigint[]) g(lo, hi)
    CROSS JOIN LATERAL (SELECT * FROM ` + events + ` WHERE id BETWEEN g.lo AND g.hi ORDER BY id LIMIT $4) e
    ORDER BY e.id LIMIT $4),
sized AS (
    SELECT *, sum(octet_length(payload)) OVER (PARTITION BY kind ORDER BY id) - octet_length(payload) AS before
    FROM (SELECT * FROM next UNION ALL SELECT * FROM found) u)
SELECT 0, pg_snapshot_xmin(pg_current_snapshot()), 0, '', '', '', '{}'::json, ''::bytea, now()
UNION ALL
SELECT kind, '0'::xid8, id, event_id, key, type, headers, payload, created_at FROM sized WHERE before < $5
ORDER BY 1, 3`
}
