package store

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
)

// Filter selects sagas; zero fields select all.
type Filter struct {
	State         saga.State
	Error         string // fingerprint
	Plan          string
	UsernameKey   string
	MemberID      string
	Delayed       *bool
	CreatedAfter  time.Time
	CreatedBefore time.Time
	Limit         int
	After         Cursor // only sagas older than this one
}

// Cursor is a place in the list of sagas; zero is its beginning.
type Cursor struct {
	At time.Time
	ID string
}

// String encodes a cursor for a URL; "" for the zero cursor.
func (c Cursor) String() string {
	if c.ID == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString([]byte(c.At.UTC().Format(time.RFC3339Nano) + " " + c.ID))
}

// ParseCursor reads what String wrote.
func ParseCursor(text string) (c Cursor, err error) {
	raw, _ := base64.RawURLEncoding.DecodeString(text)
	at, id, _ := strings.Cut(string(raw), " ")
	c.ID = id
	_, badID := uuid.FromString(id)
	c.At, err = time.Parse(time.RFC3339Nano, at)
	return c, errors.Join(err, badID)
}

// place returns the cursor as an SQL row value to compare with. If sane has clamped its time, the value uses
// the time of the cursor's saga instead.
func (c Cursor) place(q *query) string {
	id := q.arg(c.ID)
	if c.At.Unix() <= 0 || c.At.Year() >= 9999 {
		return "((SELECT created_at FROM signup_saga WHERE id = " + id + "), " + id + ")"
	}
	return "(" + q.arg(c.At) + ", " + id + ")"
}

// placed is a record with its exact place in the list. The record's own times may be clamped.
type placed struct {
	Record
	Place pgtype.Timestamptz
}

var selectPlaced = "SELECT " + recordColumns + ", s.created_at AS place" + recordTables

// maxRead is the maximum number of sagas that one page reads.
const maxRead = 5000

// List returns a page of sagas, newest first, and the cursor of the next page; the zero Cursor at the end. It
// uses the index that fits the filter best and reads at most maxRead sagas from it, so that no filter reads the
// whole table. A page may therefore have fewer sagas than f.Limit, even none, and still have a next page.
func (s *Store) List(ctx context.Context, f Filter) ([]Record, Cursor, error) {
	var q query
	ranges := s.ranges(&q, f)
	union := func(format string) string {
		parts := make([]string, len(ranges))
		for i, r := range ranges {
			parts[i] = fmt.Sprintf(format, r)
		}
		return strings.Join(parts, " UNION ALL ")
	}
	var end Cursor // where the page ends if it does not fill up
	err := s.pool.QueryRow(ctx, fmt.Sprintf(`-- name: findPageEnd
SELECT %s, id FROM (%s) s ORDER BY created_at DESC, id DESC OFFSET %d LIMIT 1`, sane("created_at"),
		union(fmt.Sprintf(
			"(SELECT created_at, id FROM signup_saga s WHERE %%s ORDER BY created_at DESC, id DESC LIMIT %d)",
			maxRead)),
		maxRead-1), q.args...).Scan(&end.At, &end.ID)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, Cursor{}, err
	}
	from := ""
	if end.ID != "" {
		from = " AND (s.created_at, s.id) >= " + end.place(&q)
	}
	// Each range has its own LIMIT, so that none is read further than the page needs.
	order := fmt.Sprintf("ORDER BY place DESC, id DESC LIMIT %d", f.Limit+1)
	part := fmt.Sprintf("(%s WHERE %%s%s AND %s %s)",
		selectPlaced, from, strings.Join(s.conditions(&q, f), " AND "), order)
	rows, _ := s.pool.Query(ctx, fmt.Sprintf("-- name: listSagas\nSELECT * FROM (%s) s %s", union(part), order),
		q.args...)
	page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Record, error) {
		p, err := pgx.RowToStructByName[placed](row)
		return p.Record, err
	})
	if err != nil || len(page) <= f.Limit {
		return page, end, err
	}
	last := page[f.Limit-1]
	return page[:f.Limit], Cursor{last.CreatedAt, last.ID}, nil
}

// query collects a statement's arguments.
type query struct{ args []any }

func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

// ranges returns conditions that together cover everything that the filter selects, and perhaps more. Each is a
// range of an index in the order of the list.
func (s *Store) ranges(q *query, f Filter) []string {
	within := "true"
	if !f.CreatedAfter.IsZero() {
		within += " AND s.created_at > " + q.arg(f.CreatedAfter)
	}
	if !f.CreatedBefore.IsZero() {
		within += " AND s.created_at < " + q.arg(f.CreatedBefore)
	}
	if f.After.ID != "" {
		within += " AND (s.created_at, s.id) < " + f.After.place(q)
	}
	if f.MemberID != "" {
		within += " AND s.member_id = " + q.arg(f.MemberID)
	}
	if f.UsernameKey != "" {
		within += " AND s.member_id = (SELECT id FROM member WHERE username_key = " + q.arg(f.UsernameKey) + ")"
	}
	if f.Error != "" {
		within += " AND s.error_class <> '' AND s.error_fingerprint = " + q.arg(f.Error)
	}
	unsettled := func(state saga.State) string {
		return within + " AND s.state NOT IN ('ready', 'withdrawn') AND s.state = " + q.arg(state)
	}
	switch {
	case f.MemberID+f.UsernameKey+f.Error != "":
		return []string{within}
	case f.State == saga.Withdrawn:
		return []string{within + " AND s.state = 'withdrawn'"}
	case f.State != "" && f.State != saga.Ready:
		return []string{unsettled(f.State)}
	case f.State == "" && f.Delayed != nil && *f.Delayed:
		return []string{unsettled(saga.Provisioning), unsettled(saga.Withdrawing)}
	default:
		return []string{within}
	}
}

// conditions returns the parts of the filter that ranges does not check.
func (s *Store) conditions(q *query, f Filter) []string {
	all := []string{"true"}
	if f.State != "" {
		all = append(all, "s.state = "+q.arg(f.State))
	}
	if f.Plan != "" {
		// A subquery by key: a join may read the whole member table.
		all = append(all, "(SELECT plan FROM member WHERE id = s.member_id) = "+q.arg(f.Plan))
	}
	if f.Delayed != nil {
		promises := s.seconds(func(st saga.Step) time.Duration { return st.Promise })
		all = append(all, fmt.Sprintf(
			"(s.state IN ('provisioning', 'withdrawing') AND s.opened_at < now() - make_interval(secs => "+
				"(%s::float8[])[s.step + 1])) = %s",
			q.arg(promises), q.arg(*f.Delayed)))
	}
	return all
}

// Get returns one saga and its timeline, oldest first, or [ErrNotFound].
func (s *Store) Get(ctx context.Context, sagaID string) (Record, []wire.Moment, error) {
	if _, err := uuid.FromString(sagaID); err != nil {
		return Record{}, nil, ErrNotFound
	}
	b := new(pgx.Batch)
	var r Record
	var moments []wire.Moment
	b.Queue("-- name: getSaga\n"+selectRecord+" WHERE s.id = $1", sagaID).Query(func(rows pgx.Rows) (err error) {
		r, err = one[Record](rows)
		return err
	})
	b.Queue(
		"-- name: getTimeline\nSELECT at, kind, state, generation, attempt, detail, actor FROM saga_event WHERE "+
			"saga_id = $1 ORDER BY id", sagaID).
		Query(func(rows pgx.Rows) (err error) {
			moments, err = pgx.CollectRows(rows, pgx.RowToStructByName[wire.Moment])
			return err
		})
	return r, moments, s.pool.SendBatch(ctx, b).Close()
}
