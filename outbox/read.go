package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxBatch      = 1000    // what the server accepts in one atomic batch
	liveBatch     = 400     // while events are being committed
	maxBatchBytes = 8 << 20 // limit of the payloads that one batch holds in memory
)

// readEvents reads, in one statement and so in one snapshot, up to limit of the next events above p.hi, the
// events that appeared in p's gaps, and, if p has gaps, the snapshot's xmin. It checks every gap whenever it
// reads later events: an event that committed before a later one of the same key is visible with it. The cost is
// one index probe per gap (hence LATERAL: a join might scan the table) and the rows found. It stops once it
// holds maxBatchBytes.
func readEvents(ctx context.Context, pool *pgxpool.Pool, lane string, p position, limit int) (r read, err error) {
	sql, args := readSQL(lane, p, limit)
	rows, err := pool.Query(ctx, sql, args...)
	if err != nil {
		return read{}, fmt.Errorf("read events of lane %s: %w", lane, err)
	}
	var (
		kind  int
		xmin  uint64
		e     row
		bytes int
		into  = []any{&kind, &xmin, &e.ID, &e.EventID, &e.Key, &e.Type, &e.Headers, &e.Payload, &e.CreatedAt}
	)
	for bytes < maxBatchBytes && rows.Next() {
		if err := rows.Scan(into...); err != nil {
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

// readSQL returns the statement and its arguments. If there are gaps, the first row holds xmin, then come the
// events that appeared in the gaps.
func readSQL(lane string, p position, limit int) (string, []any) {
	events := table("event", lane)
	const columns = "e.id, e.event_id::text, e.key, e.type, e.headers, e.payload, e.created_at"
	next := "SELECT 2, '0'::xid8, " + columns + " FROM " + events + " e WHERE e.id > $1 ORDER BY e.id LIMIT $2"
	if len(p.gaps) == 0 {
		return "-- name: readEvents\n" + next, []any{p.hi, limit}
	}
	from, to := bounds(p.gaps)
	return `-- name: readEventsAndGaps
SELECT 0, pg_snapshot_xmin(pg_current_snapshot()), 0, '', '', '', '{}'::json, ''::bytea, now()
UNION ALL (SELECT 1, '0'::xid8, ` + columns + ` FROM unnest($3::bigint[], $4::bigint[]) g(lo, hi)
    CROSS JOIN LATERAL (SELECT * FROM ` + events + ` WHERE id BETWEEN g.lo AND g.hi ORDER BY id LIMIT $2) e
 ORDER BY e.id LIMIT $2)
UNION ALL (` + next + `) ORDER BY 1, 3`, []any{p.hi, limit, from, to}
}

// bounds returns the first and the last id of each gap.
func bounds(gaps []gap) (from, to []int64) {
	from, to = make([]int64, len(gaps)), make([]int64, len(gaps))
	for i, g := range gaps {
		from[i], to[i] = g.from, g.to
	}
	return from, to
}
