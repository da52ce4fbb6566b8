package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service/reconcile"
)

// Overview is the state of the whole system. Its cost does not grow with the number of members.
type Overview struct {
	Now           time.Time
	Counts        map[saga.State]int // of every state
	Estimated     []saga.State       // states whose count is an estimate
	OldestPending *time.Time         // when the oldest signup that is still provisioning began
	Minutes       []wire.Minute      // the last hour, as far back as the counting limit reaches
	Lanes         map[contract.Lane]outbox.Status
	Provider      wire.Breaker
	Drift         reconcile.Status
}

// Limits on exact counting. Beyond them, the counts of ready and withdrawn sagas are estimated from the
// planner's statistics, and the counts of open sagas and of those that need attention are lower bounds.
const (
	countable    = 10_000  // sagas in all: up to this, each state is counted
	openShown    = 10_000  // per open state, for the overview
	openMeasured = 100_000 // per open state, for the gauges, which may take longer
	failuresMost = 200_000
)

// Overview reads the counts, the lanes, the provider's state and the reconciliation's status.
func (s *Store) Overview(ctx context.Context) (Overview, error) {
	o := Overview{Lanes: map[contract.Lane]outbox.Status{}}
	err := s.pool.QueryRow(ctx, `-- name: overview
SELECT now(), (`+oldestPending+")").
		Scan(&o.Now, &o.OldestPending)
	if err != nil {
		return o, err
	}
	if o.Provider, err = s.Provider(ctx); err != nil {
		return o, err
	}
	group, ctx := errgroup.WithContext(ctx) // an operator waits for the slowest query, not for the sum
	group.Go(func() error { return s.count(ctx, &o) })
	group.Go(func() (err error) { o.Minutes, err = s.minutes(ctx); return err })
	group.Go(func() (err error) {
		for _, lane := range contract.Lanes() {
			if o.Lanes[lane], err = outbox.ReadStatus(ctx, s.pool, string(lane)); err != nil {
				return err
			}
		}
		o.Drift, err = reconcile.ReadStatus(ctx, s.pool)
		return err
	})
	err = group.Wait()
	return o, err
}

// minutes counts the signups and failures of the last hour, at most 10,000 rows of each. If that limit is
// reached, the oldest minute counted is incomplete: it and all earlier ones are left out.
func (s *Store) minutes(ctx context.Context) ([]wire.Minute, error) {
	rows, _ := s.pool.Query(ctx, `-- name: countMinutes
WITH began AS MATERIALIZED (
    SELECT date_trunc('minute', now()) - interval '59 minutes' AS began
), signup AS MATERIALIZED (
    SELECT date_bin('1 minute', created_at, began) AS at, count(*)::int AS n
    FROM (SELECT created_at FROM signup_saga WHERE created_at >= (SELECT began FROM began) AND created_at <= now()
          ORDER BY created_at DESC LIMIT 10000) s, began GROUP BY 1
), failure AS MATERIALIZED (
    SELECT date_bin('1 minute', updated_at, began) AS at, count(*)::int AS n
    FROM (SELECT updated_at FROM saga_failure WHERE updated_at >= (SELECT began FROM began) AND updated_at <= now()
          ORDER BY updated_at DESC LIMIT 10000) f, began GROUP BY 1
)
SELECT at, coalesce(signup.n, 0) AS signups, coalesce(failure.n, 0) AS failures
FROM began CROSS JOIN generate_series(began, now(), '1 minute') AS at LEFT JOIN signup USING (at)
    LEFT JOIN failure USING (at)
WHERE at > coalesce(greatest((SELECT min(at) FROM signup HAVING sum(n) = 10000), (SELECT min(at)
    FROM failure HAVING sum(n) = 10000)), '-infinity')
ORDER BY at`)
	return pgx.CollectRows(rows, pgx.RowToStructByName[wire.Minute])
}

func (s *Store) count(ctx context.Context, o *Overview) error {
	var all, left int // -1: never analysed
	err := s.pool.QueryRow(ctx, `-- name: estimateSagas
SELECT (SELECT reltuples FROM pg_class WHERE oid = 'signup_saga'::regclass)::int, (SELECT reltuples FROM pg_class
    WHERE oid = 'signup_saga_withdrawn'::regclass)::int`).
		Scan(&all, &left)
	if err != nil {
		return err
	}
	if all < 2*countable {
		rows, _ := s.pool.Query(ctx, fmt.Sprintf(`-- name: countSagas
SELECT state, count(*) FROM (SELECT state FROM signup_saga ORDER BY created_at DESC, id DESC LIMIT %d) s
    GROUP BY state`, countable+1))
		total := 0
		if o.Counts, total, err = collectCounts(rows); err != nil || total <= countable {
			return err
		}
		all = max(all, total)
	}
	if o.Counts, err = s.countUnsettled(ctx, openShown); err != nil {
		return err
	}
	unsettled := 0
	for _, state := range saga.States {
		n := o.Counts[state]
		if unsettled += n; state == saga.Ready || state == saga.Withdrawn || n == openShown || n == failuresMost {
			o.Estimated = append(o.Estimated, state)
		}
	}
	o.Counts[saga.Withdrawn] = max(left, 0)
	o.Counts[saga.Ready] = max(all-unsettled-o.Counts[saga.Withdrawn], 0)
	return nil
}

// CountUnsettled counts the sagas that are neither ready nor withdrawn, by state: up to 100,000 in each open
// state, and up to 200,000 that need attention. The limits keep the gauge cheap even on the worst day.
func (s *Store) CountUnsettled(ctx context.Context) (map[saga.State]int, error) {
	return s.countUnsettled(ctx, openMeasured)
}

func (s *Store) countUnsettled(ctx context.Context, open int) (map[saga.State]int, error) {
	rows, _ := s.pool.Query(ctx, fmt.Sprintf(`-- name: countUnsettled
SELECT 'provisioning', count(*) FROM (SELECT FROM signup_saga WHERE state NOT IN ('ready', 'withdrawn')
    AND state = 'provisioning' LIMIT %[1]d) s UNION ALL
SELECT 'withdrawing', count(*) FROM (SELECT FROM signup_saga WHERE state NOT IN ('ready', 'withdrawn')
    AND state = 'withdrawing' LIMIT %[1]d) s UNION ALL
SELECT state, count(*) FROM (SELECT state FROM saga_failure LIMIT %[2]d) s GROUP BY state`, open, failuresMost))
	counts, _, err := collectCounts(rows)
	return counts, err
}

// oldestPending selects the start time of the oldest signup that is still provisioning; no row if there is
// none.
var oldestPending = "SELECT " + sane("began") + ` FROM (
    SELECT min(created_at) AS began FROM signup_saga WHERE state = 'provisioning') s WHERE began IS NOT NULL`

// OldestPending returns the age of the oldest signup that is still provisioning, or 0 if there is none.
func (s *Store) OldestPending(ctx context.Context) (time.Duration, error) {
	var seconds float64
	err := s.pool.QueryRow(ctx, `-- name: oldestPending
SELECT coalesce(extract(epoch FROM now() - (`+oldestPending+")), 0)::float8").Scan(&seconds)
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

// Provider returns what the Storage service reported last about its provider.
func (s *Store) Provider(ctx context.Context) (p wire.Breaker, err error) {
	var e contract.StorageError
	err = s.pool.QueryRow(ctx, `-- name: readProvider
SELECT state, nullif(changed_at, '-infinity'), reported_at, error_class, error_message, error_fingerprint
FROM provider_report`).
		Scan(&p.State, &p.Since, &p.ReportedAt, &e.Class, &e.Message, &e.Fingerprint)
	if e.Class != "" && p.State == "open" {
		p.Error = &e
	}
	return p, err
}

// NoteProvider stores what the Storage service reports about its provider. A report is ignored unless its
// version or its time is newer than the stored one. The time counts because a restored Storage database repeats
// versions. A time in the future is clamped to now, so that it cannot block later reports.
func (s *Store) NoteProvider(ctx context.Context, c contract.ProviderChange) error {
	var e contract.StorageError
	if c.Error != nil {
		e = *c.Error
	}
	_, err := s.pool.Exec(ctx, `-- name: noteProvider
UPDATE provider_report SET state = $1, version = $2, changed_at = least($3, now()), reported_at = now(),
	error_class = $4, error_message = $5, error_fingerprint = $6
WHERE version < $2 OR changed_at < least($3, now())`,
		c.State, c.Version, c.ChangedAt, e.Class, e.Message, e.Fingerprint)
	return err
}
