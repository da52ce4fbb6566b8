package store

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
)

// Filter selects sagas; zero fields select all.
type Filter struct {
	State         saga.State
	UsernameKey   string
	Delayed       *bool
	CreatedAfter  time.Time
	CreatedBefore time.Time
	Limit         int
	After         Cursor // only what is older than it
}

// Moment is a row of a saga's timeline.
type Moment struct {
	At         time.Time `json:"at"`
	Kind       string    `json:"kind"`
	State      string    `json:"state"`
	Generation int64     `json:"generation"`
	Attempt    int       `json:"attempt"`
	Detail     string    `json:"detail"`
	Actor      string    `json:"actor"`
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

// List returns a page of sagas, newest first, and the cursor of the next page; zero at the end.
func (s *Store) List(ctx context.Context, f Filter) ([]Record, Cursor, error) {
	var where []string
	var args []any
	and := func(condition string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(args)), 1)
		}
		where = append(where, condition)
	}
	and("true")
	if f.State != "" {
		and("s.state = ?", f.State)
	}
	if f.UsernameKey != "" {
		and("m.username_key = ?", f.UsernameKey)
	}
	if f.Delayed != nil {
		and("(s.state IN ('provisioning', 'withdrawing') AND s.opened_at < now() - make_interval(secs => (?::float8[])[s.step + 1])) = ?",
			s.seconds(func(st saga.Step) time.Duration { return st.Promise }), *f.Delayed)
	}
	if !f.CreatedAfter.IsZero() {
		and("s.created_at > ?", f.CreatedAfter)
	}
	if !f.CreatedBefore.IsZero() {
		and("s.created_at < ?", f.CreatedBefore)
	}
	if f.After.ID != "" {
		and("(s.created_at, s.id) < (?, ?)", f.After.At, f.After.ID)
	}
	args = append(args, f.Limit+1)
	rows, err := s.pool.Query(ctx, fmt.Sprintf("-- name: listSagas\n%s WHERE %s ORDER BY s.created_at DESC, s.id DESC LIMIT $%d",
		selectRecord, strings.Join(where, " AND "), len(args)), args...)
	if err != nil {
		return nil, Cursor{}, err
	}
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[Record])
	if err != nil || len(page) <= f.Limit {
		return page, Cursor{}, err
	}
	last := page[f.Limit-1]
	return page[:f.Limit], Cursor{last.CreatedAt, last.ID}, nil
}

// Get returns one saga and its timeline, oldest first, or [ErrNotFound].
func (s *Store) Get(ctx context.Context, sagaID string) (Record, []Moment, error) {
	if _, err := uuid.FromString(sagaID); err != nil {
		return Record{}, nil, ErrNotFound
	}
	b := new(pgx.Batch)
	var r Record
	var moments []Moment
	b.Queue("-- name: getSaga\n"+selectRecord+" WHERE s.id = $1", sagaID).Query(func(rows pgx.Rows) (err error) {
		r, err = one[Record](rows)
		return err
	})
	b.Queue("-- name: getTimeline\nSELECT at, kind, state, generation, attempt, detail, actor FROM saga_event WHERE saga_id = $1 ORDER BY id", sagaID).
		Query(func(rows pgx.Rows) (err error) {
			moments, err = pgx.CollectRows(rows, pgx.RowToStructByName[Moment])
			return err
		})
	return r, moments, s.pool.SendBatch(ctx, b).Close()
}

// CountUnsettled counts the sagas that are not at an end, by state, up to 100,000 in
// all: a gauge must stay cheap on the worst day.
func (s *Store) CountUnsettled(ctx context.Context) (map[saga.State]int, error) {
	rows, err := s.pool.Query(ctx, `-- name: countUnsettled
SELECT state, count(*) FROM (SELECT state FROM signup_saga WHERE state NOT IN ('ready', 'withdrawn') LIMIT 100000) s GROUP BY state`)
	if err != nil {
		return nil, err
	}
	counts := map[saga.State]int{saga.Provisioning: 0, saga.NeedsAttention: 0}
	var state saga.State
	var n int
	_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error { counts[state] = n; return nil })
	return counts, err
}
