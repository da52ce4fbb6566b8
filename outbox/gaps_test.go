package outbox

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The owner of the missing id has the highest xid of all when the gap is recorded, and another transaction ends
// before it does. In this order, a stamp taken from the snapshot's xmax would lose the event.
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

// The owner of the missing id began before all others, and later transactions begin and end. Neither its event
// nor any other waits for long.
func TestOldestTransactionOwnsTheGap(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		t.Run(end, func(t *testing.T) {
			b := newBench(t)
			o, other := b.begin(), b.begin()
			late := b.append(o, event("o", 1)) // id 1
			b.append(other, event("x", 2))     // id 2
			b.end(other.Rollback)
			b.start(Hooks{})
			want := b.commit(5)
			b.published()
			if p := b.position(); len(p.gaps) != 1 || p.gaps[0].from != 1 || p.gaps[0].to != 2 {
				t.Fatalf("gaps %v, want ids 1 and 2", p.gaps)
			}
			if end == "commit" {
				b.end(o.Commit)
				want = append(want, late...)
			} else {
				b.end(o.Rollback)
			}
			b.noGaps()
			b.wantExactly(want)
		})
	}
}

// An id belongs to a transaction even if a subtransaction allocated it.
func TestSubTransactions(t *testing.T) {
	b := newBench(t)
	o := b.begin()
	savepoint := func(i int, end func(pgx.Tx) func(context.Context) error) []string {
		t.Helper()
		sub, err := o.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids := b.append(sub, event("sub", i))
		b.end(end(sub))
		return ids
	}
	// id 1, and with it the first xid
	savepoint(1, func(sub pgx.Tx) func(context.Context) error { return sub.Rollback })
	want := savepoint(2, func(sub pgx.Tx) func(context.Context) error { return sub.Commit })
	savepoint(3, func(sub pgx.Tx) func(context.Context) error { return sub.Rollback })
	want = append(want, savepoint(4, func(sub pgx.Tx) func(context.Context) error { return sub.Commit })...)
	b.start(Hooks{})
	want = append(want, b.commit(2)...)
	b.eventually("ids 5 and 6", func() bool { return len(b.stored()) == 2 })
	want = append(want, b.append(o, event("o", 5))...) // id 7, below the next one
	want = append(want, b.commit(1)...)
	b.eventually("id 8", func() bool { return len(b.stored()) == 3 })
	b.end(o.Commit)
	b.noGaps()
	b.wantExactly(want)
}

func TestOpenGapsOutliveTheRelay(t *testing.T) {
	b := newBench(t)
	commits, rollsBack := b.begin(), b.begin()
	late := b.append(commits, event("o", 1))
	b.append(rollsBack, event("x", 2))
	_, stop := b.start(Hooks{})
	want := b.commit(3)
	b.published()
	stop()
	before := b.position().gaps
	b.end(commits.Commit)
	b.start(Hooks{})
	b.eventually("the rest of the gap, with its stamp", func() bool {
		return slices.Equal(b.position().gaps, []gap{{2, 2, before[0].stamp}})
	})
	b.end(rollsBack.Rollback)
	b.noGaps()
	b.wantExactly(append(want, late...))
}

// A jump of the sequence and a million rolled-back ids are one range each, however long another writer keeps
// them from being dropped. Reading such a range costs no more than reading a single id.
func TestMillionIDsAreOneGap(t *testing.T) {
	b := newBench(t)
	writer := b.begin()
	late := b.append(writer, event("o", 1)) // id 1
	rolledBack := b.begin()
	b.exec(rolledBack,
		"SELECT nextval(pg_get_serial_sequence('outbox_event_essential', 'id')) FROM generate_series(1, 1000000)")
	b.append(rolledBack, event("x", 2))
	b.end(rolledBack.Rollback)
	b.start(Hooks{})
	want := b.commit(2)
	b.exec(b.pool, "SELECT setval(pg_get_serial_sequence('outbox_event_essential', 'id'), 3000000)")
	want = append(want, b.commit(2)...)
	b.eventually("four events", func() bool { return len(b.stored()) == 4 })
	b.published()
	p := b.position()
	if len(p.gaps) != 2 || p.gaps[0].to != 1000002 || p.gaps[1].to != 3000000 {
		t.Fatalf("gaps %v, want ids 1 to 1000002 and 1000005 to 3000000", p.gaps)
	}
	b.wantSmallReads(p, 10)
	b.end(writer.Commit)
	b.noGaps()
	b.wantExactly(append(want, late...))
}

// Every second of 40,000 ids is missing while a writer is open, and one of them appears. The gaps are stored
// once, however much is published meanwhile.
func TestTwentyThousandGaps(t *testing.T) {
	b := newBench(t)
	const missing = 20000
	writer := b.begin()
	b.exec(writer, "SELECT pg_current_xact_id()")
	b.exec(b.pool,
		`INSERT INTO outbox_event_essential (id, event_id, key, type, headers, payload) OVERRIDING SYSTEM VALUE
SELECT 2 * i, gen_random_uuid(), 'k', 't', '{}', '' FROM generate_series(1, $1::int) i`, missing)
	b.exec(b.pool, "SELECT setval(pg_get_serial_sequence('outbox_event_essential', 'id'), $1)", 2*missing)
	b.start(Hooks{})
	b.published()
	p := b.position()
	if len(p.gaps) != missing {
		t.Fatalf("%d gaps, want %d", len(p.gaps), missing)
	}
	b.wantSmallReads(p, missing)
	for range 3 {
		b.commit(1)
		b.published()
	}
	var later, large int
	if err := b.pool.QueryRow(t.Context(),
		"SELECT count(*), count(*) FILTER (WHERE gaps IS NOT NULL) FROM outbox_checkpoint_essential WHERE n > $1", p.n).
		Scan(&later, &large); err != nil || later < 3 || large > 0 {
		t.Errorf("%d of %d checkpoints repeat the gaps, error %v", large, later, err)
	}
	b.exec(writer,
		`INSERT INTO outbox_event_essential (id, event_id, key, type, headers, payload) OVERRIDING SYSTEM VALUE
VALUES (777, gen_random_uuid(), 'k', 't', '{}', '')`)
	b.end(writer.Commit)
	b.noGaps()
	if last := b.position().streamSeq; last != missing+4 {
		t.Errorf("the stream ends at %d, want %d", last, missing+4)
	}
}

// However many events the table retains, a read touches only the rows it returns and one index entry per gap.
func TestReadCostsWhatItReturns(t *testing.T) {
	b := newBench(t)
	if _, err := b.pool.Exec(t.Context(), `INSERT INTO outbox_event_essential (event_id, key, type, headers, payload)
SELECT gen_random_uuid(), 'k', 't', '{}', '' FROM generate_series(1, 20000)`); err != nil {
		t.Fatal(err)
	}
	for _, gaps := range [][]gap{nil, {{21000, 21000, 1}, {22000, 22000, 1}, {23000, 23000, 1}}} {
		b.wantSmallReads(position{hi: 19990, gaps: gaps}, 20)
	}
}

// wantSmallReads checks that no step of the read after p handles more than limit rows.
func (b *bench) wantSmallReads(p position, limit int) {
	b.t.Helper()
	sql, args := readSQL(lane, p, maxBatch)
	var plan []byte
	if err := b.pool.QueryRow(b.t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+sql, args...).Scan(&plan); err != nil {
		b.t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"(Actual Rows|Rows Removed by [A-Z]\w+)": (\d+)`).FindAllSubmatch(plan, -1) {
		if n, _ := strconv.Atoi(string(m[2])); n > limit {
			b.t.Errorf("with %d gaps a node of the plan has %s %d, want at most %d:\n%.3000s", len(p.gaps), m[1], n,
				limit, plan)
			return
		}
	}
}
