package outbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A pooler in transaction mode gives each transaction another session. No statement may leave anything in a
// session that another transaction would miss or find. The tested modes of pgx are those that prepare no
// statement by name.
func TestSessionsAreLeftAsTheyWereFound(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			b := newBench(t)
			var checked, found atomic.Int32
			b.reconnect(func(c *pgxpool.Config) {
				c.ConnConfig.DefaultQueryExecMode = mode
				c.AfterRelease = func(conn *pgx.Conn) bool {
					n, err := leftInSession(conn)
					if err != nil {
						t.Error(err)
					}
					checked.Add(1)
					found.Add(n)
					return err == nil
				}
			})
			b.everyStatement()
			b.pool.Close() // waits for the last check
			if found.Load() > 0 || checked.Load() < 50 {
				t.Errorf("found %d things in sessions in %d checks", found.Load(), checked.Load())
			}
		})
	}
}

// leftInSession counts what outlives a transaction.
func leftInSession(conn *pgx.Conn) (n int32, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	err = conn.QueryRow(ctx, `-- name: leftInSession
SELECT (SELECT count(*) FROM pg_prepared_statements)
    + (SELECT count(*) FROM pg_listening_channels())
    + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
    + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
    + (SELECT count(*) FROM pg_cursors WHERE is_holdable)
    + (SELECT count(*) FROM pg_settings WHERE source = 'session')`).Scan(&n)
	return n, err
}

// reconnect replaces the pool by one with a changed configuration.
func (b *bench) reconnect(change func(*pgxpool.Config)) {
	b.t.Helper()
	config := b.pool.Config()
	change(config)
	pool, err := pgxpool.NewWithConfig(b.t.Context(), config)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(pool.Close)
	b.pool = pool
}

// everyStatement makes the outbox run each of its statements: with a gap, a lost acknowledgement, a dead event
// and a replay.
func (b *bench) everyStatement() {
	b.t.Helper()
	writer := b.begin()
	late := b.append(writer, event("late", 1))
	batch, batched := new(pgx.Batch), event("batched", 2)
	AppendBatch(batch, batched)
	if err := b.pool.SendBatch(b.t.Context(), batch).Close(); err != nil {
		b.t.Fatal(err)
	}
	dies := event("dies", 3)
	dies.Type = "no spaces allowed"
	if err := InTx(b.t.Context(), b.pool, nil,
		func(tx pgx.Tx) error { return Append(b.t.Context(), tx, dies) }); err != nil {
		b.t.Fatal(err)
	}
	want := append(b.commit(3), batched.ID)
	var lose sync.Once
	var recovered atomic.Int32
	r, stop := b.start(Hooks{Recovered: func(n int) { recovered.Add(int32(n)) }, Fault: func(p string) (err error) {
		if p == "published" {
			lose.Do(func() { err = errors.New("injected") })
		}
		return err
	}})
	b.published()
	b.end(writer.Commit)
	want = append(want, late...)
	b.noGaps()
	b.wantExactly(want)
	if err := InTx(b.t.Context(), b.pool, r.Wake,
		func(tx pgx.Tx) error { return Requeue(b.t.Context(), tx, lane, 3) }); err != nil {
		b.t.Fatal(err)
	}
	b.published()
	b.wantStatus(0, 1) // dead again
	stop()
	if err := errors.Join(r.retain(b.t.Context()), ReplaySince(b.t.Context(), b.pool, lane, time.Time{})); err != nil {
		b.t.Fatal(err)
	}
	_, stop = b.start(Hooks{})
	b.eventually("the replay", func() bool { return len(b.stored()) == 2*len(want) })
	b.wantTimes(slices.Concat(want, want))
	b.published()
	stop()
	if recovered.Load() == 0 || strings.Contains(b.log.String(), "SQLSTATE") {
		b.t.Errorf("%d events of a lost acknowledgement were recovered, or a statement failed", recovered.Load())
	}
}
