package outbox

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The owner of the missing id has the highest xid of all when the gap is seen,
// and another transaction ends before it does: the order in which a stamp
// taken from the snapshot's xmax would lose the event.
func TestOpenTransactionIsNotSkipped(t *testing.T) {
	b := newBench(t)
	xid := func(tx pgx.Tx) {
		if _, err := tx.Exec(t.Context(), "SELECT pg_current_xact_id()"); err != nil {
			t.Fatal(err)
		}
	}
	h, f := b.begin(), b.begin()
	xid(h)
	xid(f)
	o := b.begin()
	want := b.append(o, event("o", 1)) // id 1
	want = append(want, b.append(h, event("h", 2))...)
	b.end(h.Commit) // id 2 is visible, 1 is not
	b.start(Hooks{})
	b.eventually("id 2", func() bool { return len(b.stored()) == 1 })
	b.end(f.Commit)
	want = append(want, b.commit(3)...)
	b.eventually("ids 3 to 5", func() bool { return len(b.stored()) == 4 })
	b.end(o.Commit)
	b.eventually("id 1", func() bool { return len(b.stored()) == 5 })
	b.wantExactly(want)
	b.noGaps()
}

// However many events the table retains, a read touches what it returns and one
// index entry per gap.
func TestReadCostsWhatItReturns(t *testing.T) {
	b := newBench(t)
	if _, err := b.pool.Exec(t.Context(), `INSERT INTO outbox_event_essential (event_id, key, type, headers, payload)
SELECT gen_random_uuid(), 'k', 't', '{}', '' FROM generate_series(1, 20000)`); err != nil {
		t.Fatal(err)
	}
	for _, gaps := range [][]int64{{}, {21000, 22000, 23000}} {
		var plan []byte
		if err := b.pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+readSQL(lane), 19990, gaps, gaps, maxBatch, maxBatchBytes).Scan(&plan); err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"Actual Rows": (\d+)`).FindAllSubmatch(plan, -1) {
			if n, _ := strconv.Atoi(string(m[1])); n > 20 {
				t.Errorf("with %d gaps a node of the plan reads %d rows:\n%s", len(gaps), n, plan)
				break
			}
		}
	}
}
