package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// statements records the statements of a pool, so that their plans can be checked.
type statements struct {
	mu  sync.Mutex
	all []pgx.TraceQueryStartData
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, data)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		s.TraceQueryStart(ctx, nil, pgx.TraceQueryStartData{SQL: q.SQL, Args: q.Arguments})
	}
	return ctx
}

func (s *statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (s *statements) take() []pgx.TraceQueryStartData {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

// plan is a node of the output of EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON).
type plan struct {
	Type    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Hit     float64 `json:"Shared Hit Blocks"` // including its children
	Read    float64 `json:"Shared Read Blocks"`
	Plans   []plan  `json:"Plans"`
}

// cost is the part of a plan's cost that does not depend on the machine.
type cost struct {
	rows    float64 // read from tables
	blocks  float64
	sorted  float64  // rows of the largest sort
	problem []string // tables that were read completely
}

// narrow tables contain only rows about trouble, so reading all of them is fine.
var narrow = regexp.MustCompile(`^(saga_failure|outbox_dead_.*|provider_report|reconciliation)$`)

func (c *cost) add(p plan) {
	switch {
	case strings.Contains(p.Type, "Seq Scan"):
		if !narrow.MatchString(p.Table) {
			c.problem = append(c.problem, "all of "+p.Table)
		}
	case p.Type == "Sort", p.Type == "Incremental Sort":
		c.sorted = max(c.sorted, p.Plans[0].Rows*p.Plans[0].Loops)
	}
	if strings.Contains(p.Type, "Scan") && (p.Table != "" || p.Type == "Bitmap Index Scan") {
		c.rows += (p.Rows + p.Removed) * p.Loops
	}
	for _, child := range p.Plans {
		c.add(child)
	}
}

// planned are the two ways in which Postgres may plan a statement: for its arguments, or once for all
// arguments.
var planned = []string{"SET LOCAL plan_cache_mode = force_custom_plan",
	"SET LOCAL plan_cache_mode = force_generic_plan"}

// costs runs f, explains each statement that f ran in both ways, and returns the largest costs. Writes of
// explained statements are rolled back.
func costs(t *testing.T, pool *pgxpool.Pool, seen *statements, f func() error) (worst cost) {
	t.Helper()
	seen.take()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	asked := seen.take()
	for _, way := range planned {
		var c cost
		for _, statement := range asked {
			if strings.HasPrefix(statement.SQL, "-- name:") {
				p := explain(t, pool, way, statement)
				c.add(p)
				c.blocks += p.Hit + p.Read
			}
		}
		worst.rows, worst.blocks, worst.sorted = max(worst.rows, c.rows), max(worst.blocks, c.blocks),
			max(worst.sorted, c.sorted)
		worst.problem = append(worst.problem, c.problem...)
	}
	return worst
}

// explain runs a statement as a prepared one, and returns its plan.
func explain(t *testing.T, pool *pgxpool.Pool, setting string, statement pgx.TraceQueryStartData) plan {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // ends the transaction whatever happened
	run := "EXECUTE explained"
	if n := len(statement.Args); n > 0 {
		run += " ($1"
		for i := 2; i <= n; i++ {
			run += fmt.Sprintf(", $%d", i)
		}
		run += ")"
	}
	var raw []byte
	for _, sql := range []string{setting, "PREPARE explained AS " + statement.SQL} {
		if _, err := tx.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	args := append([]any{pgx.QueryExecModeSimpleProtocol}, statement.Args...)
	if err := tx.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+run, args...).Scan(&raw); err != nil {
		t.Fatalf("%s: %v", statement.SQL, err)
	}
	if _, err := tx.Exec(t.Context(), "DEALLOCATE explained"); err != nil {
		t.Fatal(err)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal(raw, &plans); err != nil {
		t.Fatal(err)
	}
	return plans[0].Plan
}

const (
	sagas   = 60_000 // the older two thirds are not all ready
	mixed   = sagas * 2 / 3
	acts    = 30_000 // the first half by an operator who has left
	retries = 3_000
	dead    = 1_000
)

// populate adds signups of the last ten days. Of the older two thirds, a quarter has failed, in 40 kinds of
// which two are common, and one in a hundred of the others is in each other state. A query that finds these by
// age alone has to pass all newer ones. Few have a paid plan.
func populate(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	const id = "('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"
	storetest.Exec(t, pool, `INSERT INTO member (id, username, username_key, plan, password_hash, created_at)
SELECT `+id+`, 'user' || i, 'user' || i, CASE WHEN i % 1000 = 0 THEN 'pro' ELSE 'free' END, 'x', now()
FROM generate_series(1, $1::int) i`, sagas)
	storetest.Exec(t, pool,
		`INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at,
		    due_at, error_class, error_message, error_fingerprint, retried, created_at, updated_at)
SELECT `+id+`, `+id+`, 'sgn_' || md5('g' || i), state, 1, 2, at, at,
    CASE WHEN state IN ('provisioning', 'withdrawing') THEN at END,
       CASE WHEN failed THEN 'rejected' ELSE '' END, CASE WHEN failed THEN 'no room ' || i ELSE '' END,
       CASE WHEN failed THEN 'rejected:' || CASE WHEN j % 4 <> 0 THEN j % 2 ELSE 2 + j / 4 % 38 END ELSE '' END, failed
           AND j % 3 = 0, at, at + interval '1 s'
FROM (SELECT i, i / 4 AS j, now() - make_interval(secs => ($1 - i) * 864000.0 / $1) AS at, i % 4 = 0 AND i <= $2
    AS failed,
             CASE WHEN i > $2 THEN 'ready' WHEN i % 4 = 0 THEN CASE WHEN i / 4 % 101 = 0
                 THEN 'withdraw_needs_attention' ELSE 'needs_attention' END
                  ELSE CASE i % 100 WHEN 1 THEN 'provisioning' WHEN 2 THEN 'withdrawing' WHEN 3 THEN 'withdrawn'
                      ELSE 'ready' END END AS state
      FROM generate_series(1, $1::int) i) s`, sagas, mixed)
	storetest.Exec(t, pool, `INSERT INTO saga_event (saga_id, kind, state, version, generation)
SELECT id, kind, state, version, 1 FROM signup_saga CROSS JOIN unnest(ARRAY['signed_up', 'provisioned']) AS kind`)
	storetest.Exec(t, pool, `INSERT INTO admin_audit (actor, action, saga_id, reason, before, after)
SELECT CASE WHEN i <= $1 / 2 THEN 'mina' ELSE 'omar' END, CASE i % 3 WHEN 0 THEN 'cancel'
    ELSE 'retried' END, `+id+`, 'why', '{}', '{}' FROM generate_series(1, $1::int) i`, acts)
	storetest.Exec(t, pool,
		`INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, state, matched, remaining, due_at,
		    finished_at)
SELECT `+id+`, 'mina', 'why', '{}', 1, 1, 'finished', 0, 0, NULL, now() FROM generate_series(1, $1::int) i`, retries)
	for _, lane := range contract.Lanes() {
		storetest.Exec(t, pool,
			fmt.Sprintf(`WITH event AS (INSERT INTO outbox_event_%[1]s (event_id, key, type, headers, payload)
    SELECT gen_random_uuid(), i::text, 'storage.provision', '{}', 'x' FROM generate_series(1, 20 * $1::int) i
        RETURNING *)
INSERT INTO outbox_dead_%[1]s (id, event_id, type, error) SELECT id, event_id, type, 'too large' FROM event
    WHERE id %% 20 = 0`, lane), dead)
		storetest.Exec(t, pool,
			fmt.Sprintf(
				"INSERT INTO outbox_checkpoint_%s (n, hi, gaps, stream_seq) SELECT i, i, '[]', i FROM "+
					"generate_series(1, $1::int) i", lane), dead)
	}
	storetest.Exec(t, pool, "VACUUM (ANALYZE)")
}

// filters returns all combinations of the API's filters for sagas, with common and with rare values.
func filters() map[string]store.Filter {
	all := map[string]store.Filter{"": {}}
	vary := func(choices map[string]func(*store.Filter)) {
		for name, f := range maps.Clone(all) {
			for choice, set := range choices {
				changed := f
				set(&changed)
				all[name+" "+choice] = changed
			}
		}
	}
	yes, no, day := true, false, time.Now().Add(-8*24*time.Hour)
	states := map[string]func(*store.Filter){}
	for _, state := range saga.States {
		states[string(state)] = func(f *store.Filter) { f.State = state }
	}
	vary(states)
	vary(map[string]func(*store.Filter){
		"common error": func(f *store.Filter) { f.Error = "rejected:0" },
		"rare error":   func(f *store.Filter) { f.Error = "rejected:7" },
		"name":         func(f *store.Filter) { f.UsernameKey = "user777" },
		"member":       func(f *store.Filter) { f.MemberID = "00000000-0000-7000-8000-000000000777" },
	})
	vary(map[string]func(*store.Filter){"plan": func(f *store.Filter) { f.Plan = "pro" }})
	vary(map[string]func(*store.Filter){"delayed": func(f *store.Filter) { f.Delayed = &yes },
		"in time": func(f *store.Filter) { f.Delayed = &no }})
	vary(map[string]func(*store.Filter){
		"range": func(f *store.Filter) { f.CreatedAfter, f.CreatedBefore = day, day.Add(24*time.Hour) },
	})
	return all
}

// Operators' queries read a bounded number of rows and never a whole table, however many members and failures
// there are and wherever in time they lie.
func TestOperatorsAskCheaply(t *testing.T) {
	cfg, err := pgxpool.ParseConfig(storetest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	seen := &statements{}
	cfg.ConnConfig.Tracer = seen
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	populate(t, pool)
	st := store.New(pool, storetest.Steps, storetest.Secret, func() {})
	within := func(what string, most cost, f func() error) {
		t.Helper()
		c := costs(t, pool, seen, f)
		t.Logf("%s: %.0f rows, %.0f blocks, %.0f sorted", what, c.rows, c.blocks, c.sorted)
		if c.rows > most.rows || c.blocks > most.blocks || c.sorted > most.sorted || len(c.problem) > 0 {
			t.Errorf("%s: %.0f rows and %.0f blocks read, %.0f rows sorted; want %.0f, %.0f and %.0f at most; read: %q",
				what, c.rows, c.blocks, c.sorted, most.rows, most.blocks, most.sorted, c.problem)
		}
	}
	const page = 50
	looked := cost{rows: 20_500, blocks: 20_000, sorted: 5_000}
	for name, f := range filters() {
		f.Limit = page
		within("sagas:"+name, looked, func() error { _, _, err := st.List(t.Context(), f); return err })
	}
	deep := store.Cursor{At: time.Now().Add(-5 * 24 * time.Hour), ID: "ffffffff-ffff-ffff-ffff-ffffffffffff"}
	within("sagas far down", looked, func() error {
		_, _, err := st.List(t.Context(), store.Filter{After: deep, Limit: page})
		return err
	})
	few := cost{rows: 500, blocks: 500, sorted: page}
	within("a saga", few,
		func() error { _, _, err := st.Get(t.Context(), "00000000-0000-7000-8000-000000000777"); return err })
	for _, f := range []store.AuditFilter{
		{}, {Actor: "mina"}, {Action: "cancel"}, {Actor: "mina", Action: "cancel"}, {Actor: "mina", Action: "nothing"},
		{SagaID: "00000000-0000-7000-8000-000000000777"},
		{Actor: "mina", Action: "retried", SagaID: "00000000-0000-7000-8000-000000000777"},
		{Before: acts / 4}, {Actor: "mina", Action: "cancel", Before: acts / 4}, {Actor: "mina", Before: acts / 4},
	} {
		f.Limit = page
		within(fmt.Sprintf("audit %+v", f), few, func() error { _, _, err := st.Audit(t.Context(), f); return err })
	}
	lanes := cost{rows: 500, blocks: 500, sorted: 2 * (page + 1)}
	within("dead events", lanes, func() error { _, _, err := st.Dead(t.Context(), store.DeadID{}, page); return err })
	within("further dead events", lanes, func() error {
		_, _, err := st.Dead(t.Context(), store.DeadID{Lane: "essential", Row: 5_000}, page)
		return err
	})
	within("retries", few, func() error {
		_, _, err := st.Retries(t.Context(), "ffffffff-ffff-ffff-ffff-ffffffffffff", page)
		return err
	})
	within("a retry", few,
		func() error { _, err := st.Retry(t.Context(), "00000000-0000-7000-8000-000000000777"); return err })
	const failures = mixed / 4
	within("failures", cost{rows: failures + 200, blocks: 1_000, sorted: 40},
		func() error { _, err := st.Failures(t.Context(), page); return err })
	within("overview", cost{rows: failures + 4_000, blocks: 1_000, sorted: 60},
		func() error { _, err := st.Overview(t.Context()); return err })
	group := store.Filter{Error: "rejected:0"}
	within("counting a group", cost{rows: 2 * failures, blocks: 2 * failures},
		func() error { _, err := st.CountRetryable(t.Context(), group); return err })
	checkPages(t, pool, st)
	checkEstimates(t, pool, st)
}

// checkPages follows the cursors of filters that read more sagas than they find.
func checkPages(t *testing.T, pool *pgxpool.Pool, st *store.Store) {
	t.Helper()
	for where, f := range map[string]store.Filter{
		"plan = 'pro'": {Plan: "pro"},
		"error_fingerprint = 'rejected:0' AND state = 'withdraw_needs_attention'": {Error: "rejected:0",
			State: saga.WithdrawNeedsAttention},
	} {
		f.Limit = 30
		found, pages := map[string]bool{}, 0
		for {
			page, next, err := st.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, r := range page {
				if found[r.ID] {
					t.Fatalf("%s: twice: %s", where, r.ID)
				}
				found[r.ID] = true
			}
			if f.After = next; next.ID == "" {
				break
			}
		}
		want := storetest.Count(t, pool, "SELECT count(*) FROM signup_saga s JOIN member m ON m.id = member_id WHERE "+
			where)
		if len(found) != want || want == 0 {
			t.Errorf("%s: %d found on %d pages, want %d", where, len(found), pages, want)
		}
	}
}

// checkEstimates compares the overview's counts with the table. The statistics come from all rows here, because
// those of a sample differ from run to run.
func checkEstimates(t *testing.T, pool *pgxpool.Pool, st *store.Store) {
	t.Helper()
	storetest.Exec(t, pool, "ALTER TABLE signup_saga ALTER COLUMN state SET STATISTICS 1000") // 300 rows each
	storetest.Exec(t, pool, "ANALYZE signup_saga")
	o, err := st.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range saga.States {
		want := storetest.Count(t, pool, "SELECT count(*) FROM signup_saga WHERE state = $1", state)
		if got := o.Counts[state]; got < want*99/100 || got > want*101/100 {
			t.Errorf("%d sagas are %s, shown as %d", want, state, got)
		}
	}
	if len(o.Estimated) != 2 || o.Estimated[0] != saga.Ready || o.Estimated[1] != saga.Withdrawn {
		t.Errorf("estimated: %v", o.Estimated)
	}
}
