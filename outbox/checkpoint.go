package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errSuperseded means that another relay has written the next checkpoint, or that a crash of the database undid
// the last one.
var errSuperseded = errors.New("another relay leads")

// checkpoints reads and appends the rows of one lane's checkpoint table.
type checkpoints struct {
	pool *pgxpool.Pool
	lane string
	me   string // uuid of this relay
}

// holder says who wrote the newest checkpoint.
type holder struct {
	leader string // empty: handed over
	fresh  bool   // written less than staleAfter ago by the database's clock
}

// deadEvent is an event that enters the dead table, or leaves it if err is nil.
type deadEvent struct {
	row row
	err error
}

// deadNoMore removes rows from the dead table if they are in it.
func deadNoMore(rows []row) []deadEvent {
	out := make([]deadEvent, len(rows))
	for i, r := range rows {
		out[i].row = r
	}
	return out
}

const selectCheckpoint = `
SELECT c.n, coalesce(c.leader::text, '') AS leader, c.hi, g.gaps, g.n AS gaps_at, g.xid AS gaps_xid,
       coalesce(c.stream_id, 'epoch') AS stream_id, c.stream_seq, c.published_at > clock_timestamp() - $1::interval
           AS fresh,
       c.system_id <> (pg_control_system()).system_identifier AS moved
FROM %[1]s c JOIN %[1]s g ON g.n = coalesce(c.gaps_at, c.n) `

// newest loads the last checkpoint. It reads one index entry and no dead rows.
func (c checkpoints) newest(ctx context.Context) (position, holder, error) {
	return c.load(ctx, "newestCheckpoint", "ORDER BY c.n DESC LIMIT 1", staleAfter)
}

// replayStart loads the position before the replay window: from it, every event that was published in the window
// before the last publication is published again. It also returns the number of the oldest checkpoint that such
// a replay may need. The window ends at the last publication, not now: however long the broker was down, what
// was published right before may be unconsumed. Within the window the lowest hi is used, because the window may
// contain replays. If since is given, the window begins there.
func (c checkpoints) replayStart(
	ctx context.Context, window time.Duration, since *time.Time,
) (p position, oldest int64, err error) {
	checkpoint := table("checkpoint", c.lane)
	err = c.pool.QueryRow(ctx, `-- name: replayWindow
WITH newest AS (SELECT stream_id, stream_seq FROM `+checkpoint+` ORDER BY n DESC LIMIT 1),
last AS (SELECT min(c.published_at) AS at FROM `+checkpoint+` c JOIN newest USING (stream_id, stream_seq)),
start AS (SELECT coalesce(max(c.n), 0) AS n
    FROM `+checkpoint+` c, last WHERE c.published_at < coalesce($2, last.at - $1::interval)),
lowest AS (SELECT c.n FROM `+checkpoint+` c, start WHERE c.n >= start.n ORDER BY c.hi, c.n LIMIT 1)
SELECT lowest.n, (SELECT min(least(c.n, c.gaps_at))
    FROM `+checkpoint+` c, start WHERE c.n >= start.n) FROM lowest`, window, since).Scan(&p.n, &oldest)
	if err != nil {
		return p, 0, fmt.Errorf("find replay window of lane %s: %w", c.lane, err)
	}
	p, _, err = c.load(ctx, "checkpoint", "WHERE c.n = $2", staleAfter, p.n)
	for i := range p.gaps {
		if p.moved { // the gaps' owners stayed behind: any xid of this cluster will do
			p.gaps[i].stamp = 0
		}
	}
	p.moved = false
	return p, oldest, err
}

// verify refuses to continue from p with a sequence that breaks an assumption of the proof.
func (c checkpoints) verify(ctx context.Context, p position) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	var cache, last, highest int64
	err := c.pool.QueryRow(ctx, `-- name: verifySequence
SELECT seqcache, coalesce(pg_sequence_last_value(seqrelid), 0), (SELECT coalesce(max(id), 0)
    FROM `+table("event", c.lane)+`)
FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence($1, 'id')::regclass`,
		table("event", c.lane)).Scan(&cache, &last, &highest)
	switch highest = max(highest, p.hi); {
	case err != nil:
		return fmt.Errorf("verify sequence of lane %s: %w", c.lane, err)
	case cache != 1:
		return waitFor(ErrLane, "the id sequence of lane %s caches %d values, so events may be skipped: set CACHE 1",
			c.lane, cache)
	case last < highest:
		return waitFor(ErrLane, "the id sequence of lane %s is at %d, behind event %d: set it with setval",
			c.lane, last, highest)
	}
	return nil
}

func (c checkpoints) load(ctx context.Context, name, tail string, args ...any) (position, holder, error) {
	var (
		p       position
		h       holder
		gaps    [][3]uint64
		gapsXid uint64
	)
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	sql := "-- name: " + name + fmt.Sprintf(selectCheckpoint, table("checkpoint", c.lane)) + tail
	err := c.pool.QueryRow(ctx, sql, args...).Scan(&p.n, &h.leader, &p.hi, &gaps, &p.gapsAt, &gapsXid, &p.streamID,
		&p.streamSeq, &h.fresh, &p.moved)
	if err != nil {
		return p, h, fmt.Errorf("load checkpoint of lane %s: %w", c.lane, err)
	}
	if p.streamID.Unix() == 0 {
		p.streamID = time.Time{}
	}
	for _, g := range gaps {
		p.gaps = append(p.gaps, gap{int64(g[0]), int64(g[1]), g[2]})
	}
	p.gaps = stamped(p.gaps, gapsXid)
	return p, h, nil
}

// takeOver makes this relay the leader, starting from checkpoint p.
func (c checkpoints) takeOver(ctx context.Context, p position) (position, error) {
	return c.insert(ctx, p, p, &c.me, nil, nil)
}

// append writes next as the successor of prev, and the dead events with it. It returns next as stored, or
// errSuperseded. It does not wait for the disk: if a crash undoes the checkpoint, the relay finds its events in
// the stream.
func (c checkpoints) append(ctx context.Context, prev, next position, dead []deadEvent) (position, error) {
	return c.insert(ctx, prev, next, &c.me, &c.me, dead)
}

// insert writes checkpoint prev.n+1 if prev.n exists and, where author is given, was written by author. The
// primary key lets only one relay win. Only an author may point to gaps stored earlier: for a relay that takes
// over, prev.n may by now be another row than the one it loaded (a crash undid that one). And only an author has
// handled a move of the database.
func (c checkpoints) insert(
	ctx context.Context, prev, next position, leader, author *string, dead []deadEvent,
) (position, error) {
	var (
		gaps     *string // text, as in Event.args
		gapsAt   *int64
		streamID *time.Time
	)
	if author != nil && slices.Equal(prev.gaps, next.gaps) {
		gapsAt = &prev.gapsAt
	} else {
		gaps = new(encodeGaps(next.gaps))
	}
	if !next.streamID.IsZero() {
		streamID = &next.streamID
	}
	burial, args := c.bury(dead, []any{prev.n, leader, next.hi, gaps, gapsAt, streamID, next.streamSeq, author})
	var xid uint64
	err := c.pool.QueryRow(ctx, `-- name: appendCheckpoint
WITH relaxed AS (SELECT set_config('synchronous_commit', 'off', true)),
cp AS (
    INSERT INTO `+table("checkpoint", c.lane)+` (n, leader, hi, gaps, gaps_at, stream_id, stream_seq, system_id)
    SELECT $1::bigint + 1, $2::uuid, $3::bigint, $4::json, $5::bigint, $6::timestamptz, $7::bigint,
        CASE WHEN $8::uuid IS NULL THEN system_id ELSE (pg_control_system()).system_identifier END
    FROM relaxed, `+table("checkpoint", c.lane)+` WHERE n = $1 AND ($8::uuid IS NULL OR leader = $8::uuid)
    RETURNING xid)`+burial+`
SELECT xid FROM cp`, args...).Scan(&xid)
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows), errors.As(err, &pgErr) && pgErr.Code == "23505": // unique_violation
		return prev, errSuperseded
	case err != nil:
		return prev, fmt.Errorf("append checkpoint to lane %s: %w", c.lane, err)
	}
	next.n = prev.n + 1
	if gapsAt != nil {
		next.gapsAt = *gapsAt
	} else {
		next.gapsAt, next.gaps = next.n, stamped(next.gaps, xid)
	}
	return next, nil
}

// bury returns what a checkpoint's statement needs for dead events: nothing if there are none. With the join
// always present, Postgres would plan it anew for each checkpoint, which takes longer than writing one.
func (c checkpoints) bury(dead []deadEvent, args []any) (sql string, all []any) {
	if len(dead) == 0 {
		return "", args
	}
	var died, risen []int64
	var why []string
	for _, d := range dead {
		if d.err == nil {
			risen = append(risen, d.row.ID)
		} else {
			died, why = append(died, d.row.ID), append(why, d.err.Error())
		}
	}
	return `,
risen AS (DELETE FROM ` + table("dead", c.lane) + ` d USING cp WHERE d.id = ANY ($11::bigint[])),
dead AS (
    INSERT INTO ` + table("dead", c.lane) + ` (id, event_id, type, error)
    SELECT e.id, e.event_id, e.type, d.error
    FROM cp, unnest($9::bigint[], $10::text[]) d(id, error) JOIN ` + table("event", c.lane) + ` e USING (id)
    ON CONFLICT (id) DO NOTHING)`, append(args, died, why, risen)
}

// deadAfter returns the dead events that a relay reads again from position p on. Some of them may be published
// this time.
func (c checkpoints) deadAfter(ctx context.Context, p position) ([]deadEvent, error) {
	from, to := bounds(p.gaps)
	var ids []int64
	err := c.pool.QueryRow(ctx, `-- name: deadAfter
SELECT coalesce(array_agg(id), '{}') FROM `+table("dead", c.lane)+`
WHERE id > $1 OR EXISTS (SELECT FROM unnest($2::bigint[], $3::bigint[]) g(lo, hi) WHERE id BETWEEN g.lo AND g.hi)`,
		p.hi, from, to).Scan(&ids)
	if err != nil {
		return nil, fmt.Errorf("find dead events of lane %s: %w", c.lane, err)
	}
	dead := make([]deadEvent, len(ids))
	for i, id := range ids {
		dead[i].row.ID = id
	}
	return dead, nil
}

func encodeGaps(gaps []gap) string {
	ranges := make([][3]uint64, 0, len(gaps))
	for _, g := range gaps {
		ranges = append(ranges, [3]uint64{uint64(g.from), uint64(g.to), g.stamp})
	}
	b, _ := json.Marshal(ranges) // arrays of numbers always encode
	return string(b)
}
