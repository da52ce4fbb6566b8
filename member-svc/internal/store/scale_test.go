package store_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// statements remembers what a pool is asked, for its plans to be looked at.
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

func (s *statements) take() []pgx.TraceQueryStartData {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

// plan is a node of what EXPLAIN (ANALYZE, FORMAT JSON) answers.
type plan struct {
	Type    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Plans   []plan  `json:"Plans"`
}

// reads returns how many rows the plan read from tables, and the table that it read as
// a whole, if any.
func (p plan) reads() (rows float64, whole string) {
	if strings.Contains(p.Type, "Seq Scan") {
		whole = p.Table
	}
	if strings.Contains(p.Type, "Scan") && (p.Table != "" || p.Type == "Bitmap Index Scan") {
		rows = (p.Rows + p.Removed) * p.Loops
	}
	for _, child := range p.Plans {
		n, table := child.reads()
		rows += n
		if table != "" {
			whole = table
		}
	}
	return rows, whole
}

// costs explains what f asks and returns how many rows were read for it.
func costs(t *testing.T, pool *pgxpool.Pool, seen *statements, f func() error) (rows float64, whole []string) {
	t.Helper()
	seen.take()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	for _, statement := range seen.take() {
		if !strings.Contains(statement.SQL, "signup_saga") {
			continue
		}
		var raw []byte
		if err := pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+statement.SQL, statement.Args...).Scan(&raw); err != nil {
			t.Fatalf("%s: %v", statement.SQL, err)
		}
		var plans []struct{ Plan plan }
		if err := json.Unmarshal(raw, &plans); err != nil {
			t.Fatal(err)
		}
		n, table := plans[0].Plan.reads()
		if rows += n; table != "" {
			whole = append(whole, table+": "+statement.SQL)
		}
	}
	return rows, whole
}

// populate makes n signups of the last ten days: a quarter of them failed, in 40 kinds
// of which two are common, and of all others one in a hundred is in each other state.
func populate(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	const id = "('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"
	storetest.Exec(t, pool, `INSERT INTO member (id, username, username_key, plan, password_hash, created_at)
SELECT `+id+`, 'user' || i, 'user' || i, CASE WHEN i % 1000 = 0 THEN 'pro' ELSE 'free' END, 'x', now() FROM generate_series(1, $1::int) i`, n)
	storetest.Exec(t, pool, `INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at, due_at, error_class, error_message, error_fingerprint, retried, created_at, updated_at)
SELECT `+id+`, `+id+`, 'sgn_' || md5('g' || i), state, 1, 2, at, at, CASE WHEN state IN ('provisioning', 'withdrawing') THEN at END,
       CASE WHEN failed THEN 'rejected' ELSE '' END, CASE WHEN failed THEN 'no room ' || i ELSE '' END,
       CASE WHEN failed THEN 'rejected:' || CASE WHEN j % 4 <> 0 THEN j % 2 ELSE 2 + j / 4 % 38 END ELSE '' END, failed AND j % 3 = 0, at, at + interval '1 s'
FROM (SELECT i, i / 4 AS j, now() - make_interval(secs => ($1 - i) * 864000.0 / $1) AS at, i % 4 = 0 AS failed,
             CASE WHEN i % 4 = 0 THEN CASE WHEN i / 4 % 101 = 0 THEN 'withdraw_needs_attention' ELSE 'needs_attention' END
                  ELSE CASE i % 100 WHEN 1 THEN 'provisioning' WHEN 2 THEN 'withdrawing' WHEN 3 THEN 'withdrawn' ELSE 'ready' END END AS state
      FROM generate_series(1, $1::int) i) s`, n)
	storetest.Exec(t, pool, "VACUUM (ANALYZE) signup_saga")
	storetest.Exec(t, pool, "ANALYZE member")
}

// What operators ask reads a bounded number of rows, and never a whole table, however
// many members and failures there are.
func TestOperatorsAskCheaply(t *testing.T) {
	const n = 60_000
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
	populate(t, pool, n)
	st := store.New(pool, storetest.Steps, storetest.Secret, func() {})

	yes := true
	day := time.Now().Add(-5 * 24 * time.Hour)
	for name, f := range map[string]store.Filter{
		"all": {}, "of a time": {CreatedBefore: day}, "since": {CreatedAfter: day}, "of a name": {UsernameKey: "user777"},
		"delayed": {Delayed: &yes}, "failed": {State: saga.NeedsAttention}, "leaving": {State: saga.WithdrawNeedsAttention},
		"ready": {State: saga.Ready}, "ready and delayed": {State: saga.Ready, Delayed: &yes}, "left": {State: saga.Withdrawn},
		"of a common error": {Error: "rejected:0"}, "of a rare error": {Error: "rejected:7"}, "of an unknown error": {Error: "x"},
		"of a rare plan": {Plan: "pro"}, "of a plan nobody has": {Plan: "plus"}, "leaving of a common error": {Error: "rejected:0", State: saga.WithdrawNeedsAttention},
		"far down": {After: store.Cursor{At: day, ID: "ffffffff-ffff-ffff-ffff-ffffffffffff"}, Plan: "pro"},
	} {
		f.Limit = 50
		rows, whole := costs(t, pool, seen, func() error { _, _, err := st.List(t.Context(), f); return err })
		t.Logf("%s: %.0f rows", name, rows)
		if rows > 25_000 || len(whole) > 0 {
			t.Errorf("%s: %.0f rows read, whole tables: %q", name, rows, whole)
		}
	}
	rows, whole := costs(t, pool, seen, func() error { _, err := st.Failures(t.Context(), 50); return err })
	if rows > n/4+1000 || len(whole) > 0 {
		t.Errorf("failures: %.0f rows read, whole tables: %q", rows, whole)
	}
	if rows, _ = costs(t, pool, seen, func() error { _, err := st.Overview(t.Context()); return err }); rows > 3*n {
		t.Errorf("overview: %.0f rows read", rows)
	}
	checkPages(t, pool, st)
	checkEstimates(t, pool, st)
}

// checkPages follows the cursors of filters that look at more than a page finds.
func checkPages(t *testing.T, pool *pgxpool.Pool, st *store.Store) {
	t.Helper()
	for where, f := range map[string]store.Filter{
		"plan = 'pro'": {Plan: "pro"},
		"error_fingerprint = 'rejected:0' AND state = 'withdraw_needs_attention'": {Error: "rejected:0", State: saga.WithdrawNeedsAttention},
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
		want := storetest.Count(t, pool, "SELECT count(*) FROM signup_saga s JOIN member m ON m.id = member_id WHERE "+where)
		if len(found) != want || want == 0 {
			t.Errorf("%s: %d found on %d pages, want %d", where, len(found), pages, want)
		}
	}
}

func checkEstimates(t *testing.T, pool *pgxpool.Pool, st *store.Store) {
	t.Helper()
	o, err := st.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range saga.States {
		want := storetest.Count(t, pool, "SELECT count(*) FROM signup_saga WHERE state = $1", state)
		if got := o.Counts[state]; got < want*9/10 || got > want*11/10 {
			t.Errorf("%d sagas are %s, shown as %d", want, state, got)
		}
	}
	if len(o.Estimated) != 2 || o.Estimated[0] != saga.Ready || o.Estimated[1] != saga.Withdrawn {
		t.Errorf("estimated: %v", o.Estimated)
	}
}
