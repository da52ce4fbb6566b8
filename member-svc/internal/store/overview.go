package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service/drift"
)

// Overview is how everything stands, at a cost that does not grow with the number of members.
type Overview struct {
	Now           time.Time
	Counts        map[saga.State]int // of every state
	Estimated     []saga.State       // whose count is an estimate
	OldestPending *time.Time         // when the oldest signup that is still provisioning began
	Minutes       []Minute           // of the last hour, as far back as can be counted
	Lanes         map[contract.Lane]outbox.Status
	Provider      ProviderReport
	Drift         drift.Status
}

// Minute is what happened in one minute.
type Minute struct {
	At       time.Time `json:"at"`
	Signups  int       `json:"signups"`
	Failures int       `json:"failures"` // that still need attention
}

// ProviderReport is what the Storage service last said of its provider.
type ProviderReport struct {
	State      string     `json:"state"`       // open: it is away; closed: it is not, or nothing was said yet
	Since      *time.Time `json:"since"`       // by the Storage service's clock
	ReportedAt *time.Time `json:"reported_at"` // by ours
}

// countable is how many sagas are counted one by one. Of more, those that are
// at an end are estimated from what Postgres knows for its planner.
const countable = 50_000

// Overview reads it.
func (s *Store) Overview(ctx context.Context) (Overview, error) {
	o := Overview{Lanes: map[contract.Lane]outbox.Status{}}
	err := s.pool.QueryRow(ctx, `-- name: overview
SELECT now(), (SELECT min(created_at) FROM signup_saga WHERE state = 'provisioning'), state, nullif(changed_at, '-infinity'), reported_at FROM provider_report`).
		Scan(&o.Now, &o.OldestPending, &o.Provider.State, &o.Provider.Since, &o.Provider.ReportedAt)
	if err != nil {
		return o, err
	}
	for _, lane := range contract.Lanes() {
		if o.Lanes[lane], err = outbox.ReadStatus(ctx, s.pool, string(lane)); err != nil {
			return o, err
		}
	}
	if o.Drift, err = drift.ReadStatus(ctx, s.pool); err != nil {
		return o, err
	}
	if o.Minutes, err = s.minutes(ctx); err != nil {
		return o, err
	}
	return o, s.count(ctx, &o)
}

// minutes counts the last hour, but no more than 20,000 rows of a kind: minutes
// before these are left out.
func (s *Store) minutes(ctx context.Context) ([]Minute, error) {
	rows, err := s.pool.Query(ctx, `-- name: countMinutes
WITH began AS MATERIALIZED (
    SELECT date_trunc('minute', now()) - interval '59 minutes' AS at
), signup AS MATERIALIZED (
    SELECT created_at AS at FROM signup_saga WHERE created_at >= (SELECT at FROM began) ORDER BY created_at DESC LIMIT 20000
), failure AS MATERIALIZED (
    SELECT updated_at AS at FROM signup_saga WHERE error_class <> '' AND updated_at >= (SELECT at FROM began) ORDER BY updated_at DESC LIMIT 20000
), whole AS MATERIALIZED (
    SELECT greatest((SELECT at FROM signup OFFSET 19999), (SELECT at FROM failure OFFSET 19999), (SELECT at FROM began) - interval '1 us') AS after
), happened AS (
    SELECT date_trunc('minute', at) AS at, 1 AS signup, 0 AS failure FROM signup UNION ALL
    SELECT date_trunc('minute', at), 0, 1 FROM failure UNION ALL
    SELECT generate_series((SELECT at FROM began), now(), '1 minute'), 0, 0
)
SELECT at, sum(signup)::int AS signups, sum(failure)::int AS failures FROM happened WHERE at > (SELECT after FROM whole) GROUP BY at ORDER BY at`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Minute])
}

func (s *Store) count(ctx context.Context, o *Overview) error {
	rows, err := s.pool.Query(ctx, "-- name: countSagas\nSELECT state, count(*) FROM (SELECT state FROM signup_saga LIMIT $1) s GROUP BY state", countable+1)
	if err != nil {
		return err
	}
	total := 0
	if o.Counts, total, err = collectCounts(rows); err != nil || total <= countable {
		return err
	}
	if o.Counts, err = s.CountUnsettled(ctx); err != nil {
		return err
	}
	unsettled := 0
	for _, n := range o.Counts {
		unsettled += n
	}
	o.Estimated = []saga.State{saga.Ready, saga.Withdrawn}
	if unsettled == maxUnsettled {
		o.Estimated = saga.States
	}
	var all, left int // -1: never analysed
	err = s.pool.QueryRow(ctx, `-- name: estimateSagas
SELECT (SELECT reltuples FROM pg_class WHERE oid = 'signup_saga'::regclass)::int, (SELECT reltuples FROM pg_class WHERE oid = 'signup_saga_withdrawn'::regclass)::int`).
		Scan(&all, &left)
	o.Counts[saga.Withdrawn] = max(left, 0)
	o.Counts[saga.Ready] = max(max(all, total)-unsettled-o.Counts[saga.Withdrawn], 0)
	return err
}

// maxUnsettled bounds what [Store.CountUnsettled] counts.
const maxUnsettled = 100_000

// CountUnsettled counts the sagas that are not at an end, by state, up to 100,000 in
// all: a gauge must stay cheap on the worst day.
func (s *Store) CountUnsettled(ctx context.Context) (map[saga.State]int, error) {
	rows, err := s.pool.Query(ctx, `-- name: countUnsettled
SELECT state, count(*) FROM (SELECT state FROM signup_saga WHERE state NOT IN ('ready', 'withdrawn') LIMIT $1) s GROUP BY state`, maxUnsettled)
	if err != nil {
		return nil, err
	}
	counts, _, err := collectCounts(rows)
	return counts, err
}

// OldestPending is the age of the oldest signup that is still provisioning, 0 if there is none.
func (s *Store) OldestPending(ctx context.Context) (time.Duration, error) {
	var seconds float64
	err := s.pool.QueryRow(ctx, `-- name: oldestPending
SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM signup_saga WHERE state = 'provisioning'`).Scan(&seconds)
	return time.Duration(seconds * float64(time.Second)), err
}

func collectCounts(rows pgx.Rows) (counts map[saga.State]int, total int, err error) {
	counts = make(map[saga.State]int, len(saga.States))
	for _, state := range saga.States {
		counts[state] = 0
	}
	var state saga.State
	var n int
	_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error { counts[state] = n; total += n; return nil })
	return counts, total, err
}

// NoteProvider keeps what the Storage service says of its provider. What is older than
// what is known is ignored; a database that was restored there counts versions anew.
func (s *Store) NoteProvider(ctx context.Context, c contract.ProviderChange) error {
	_, err := s.pool.Exec(ctx, `-- name: noteProvider
UPDATE provider_report SET state = $1, version = $2, changed_at = $3, reported_at = now() WHERE version < $2 OR changed_at < $3`,
		c.State, c.Version, c.ChangedAt)
	return err
}
