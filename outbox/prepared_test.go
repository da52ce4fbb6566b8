package outbox

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

// A prepared transaction belongs to no session and outlives the server. Its ids are gaps until it is ended,
// through a relay's restart, a crash of the database and any number of later events.
func TestPreparedTransactions(t *testing.T) {
	t.Parallel()
	url := testenv.Cluster(t)
	if err := migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	b := benchOf(t, url, testenv.NATS(t), "MEMBER_ESSENTIAL")
	prepare := func(name string, i int) []string {
		t.Helper()
		tx := b.begin()
		ids := b.append(tx, event("prepared", i))
		b.exec(tx, fmt.Sprintf("PREPARE TRANSACTION '%s'", name))
		return ids
	}
	late := prepare("commits", 1) // id 1
	prepare("rolls back", 2)      // id 2
	isGap := func(ids ...int64) {
		t.Helper()
		gaps := b.position().gaps
		for _, id := range ids {
			if !slices.ContainsFunc(gaps, func(g gap) bool { return g.from <= id && id <= g.to }) {
				t.Fatalf("gaps %v, want %d among them", gaps, id)
			}
		}
	}
	_, stop := b.start(Hooks{})
	want := b.commit(3)
	b.published()
	isGap(1, 2)
	stop()
	b.start(Hooks{})
	want = append(want, b.commit(3)...)
	b.published()
	isGap(1, 2)

	b.crash()
	for range 3 {
		want = append(want, b.commit(30)...)
		b.published()
		isGap(1, 2)
	}
	b.wantExactly(want)

	b.exec(b.pool, "COMMIT PREPARED 'commits'")
	want = append(want, late...)
	b.eventually("the event of the prepared transaction", func() bool { return slices.Contains(b.stored(), late[0]) })
	isGap(2)
	b.exec(b.pool, "ROLLBACK PREPARED 'rolls back'")
	b.noGaps()
	b.wantExactly(want)
}

// crash makes the cluster lose what is only in memory: it kills one session, so the server ends all sessions and
// recovers from its log.
func (b *bench) crash() {
	b.t.Helper()
	var pid int
	var before, after time.Time
	if err := b.pool.QueryRow(b.t.Context(), "SELECT pg_backend_pid(), stats_reset FROM pg_stat_bgwriter").Scan(&pid,
		&before); err != nil {
		b.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	b.eventually("the recovery of the database", func() bool {
		err := b.pool.QueryRow(b.t.Context(), "SELECT stats_reset FROM pg_stat_bgwriter").Scan(&after)
		return err == nil && after.After(before)
	})
}
