package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxBatch      = 1000    // what the server takes in one atomic batch
	maxBatchBytes = 8 << 20 // what one batch may hold in memory
)

// readEvents reads, in one statement and so in one snapshot, up to limit of the
// next events above p.hi, those that appeared in p's gaps, and the snapshot's
// xmin. Every gap is looked at whenever later events are read: an event that
// committed before a later one of the same key is visible with it. The cost is
// one index probe per gap (hence LATERAL: a join might scan the table) and the
// rows found. It stops when it holds maxBatchBytes.
func readEvents(ctx context.Context, pool *pgxpool.Pool, lane string, p position, limit int) (r read, err error) {
	from, to := make([]int64, len(p.gaps)), make([]int64, len(p.gaps))
	for i, g := range p.gaps {
		from[i], to[i] = g.from, g.to
	}
	rows, err := pool.Query(ctx, readSQL(lane, len(p.gaps) > 0), p.hi, from, to, limit)
	if err != nil {
		return read{}, fmt.Errorf("read events of lane %s: %w", lane, err)
	}
	bytes := 0
	for bytes < maxBatchBytes && rows.Next() {
		var e row
		var kind int
		var xmin uint64
		if err := rows.Scan(&kind, &xmin, &e.ID, &e.EventID, &e.Key, &e.Type, &e.Headers, &e.Payload, &e.CreatedAt); err != nil {
			return read{}, fmt.Errorf("read events of lane %s: %w", lane, err)
		}
		switch kind {
		case 0:
			r.xmin = xmin
		case 1:
			r.found = append(r.found, e)
		case 2:
			r.fresh = append(r.fresh, e)
		}
		bytes += len(e.Payload)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return read{}, fmt.Errorf("read events of lane %s: %w", lane, err)
	}
	full := bytes >= maxBatchBytes
	r.foundAll = len(r.found) < limit && (!full || len(r.fresh) > 0)
	r.more = full || len(r.found)+len(r.fresh) >= limit
	if room := limit - len(r.found); r.foundAll && len(r.fresh) > room {
		r.fresh = r.fresh[:room]
	}
	return r, nil
}

// readSQL takes hi, the bounds of the gaps, and the limit. One of its rows holds
// xmin. Where there are gaps, what appeared in them comes before the rest.
func readSQL(lane string, gaps bool) string {
	events := table("event", lane)
	const columns = "e.id, e.event_id::text, e.key, e.type, e.headers, e.payload, e.created_at"
	sql := `-- name: readEvents
SELECT 0, pg_snapshot_xmin(pg_current_snapshot()), 0, '', '', '', '{}'::json, ''::bytea, now()
UNION ALL (SELECT 1, '0'::xid8, ` + columns + ` FROM unnest($2::bigint[], $3::bigint[]) g(lo, hi)
    CROSS JOIN LATERAL (SELECT * FROM ` + events + ` WHERE id BETWEEN g.lo AND g.hi ORDER BY id LIMIT $4) e ORDER BY e.id LIMIT $4)
UNION ALL (SELECT 2, '0'::xid8, ` + columns + ` FROM ` + events + ` e WHERE e.id > $1 ORDER BY e.id LIMIT $4)`
	if gaps {
		sql += " ORDER BY 1, 3"
	}
	return sql
}
