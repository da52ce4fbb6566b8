package outbox

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

// A database is dumped while a writer is open and a relay works, and restored in another cluster, whose xids are
// far lower. What the old database did after the dump is unknown there, and the ids that it used are allocated
// again.
func TestRestoredInAnotherCluster(t *testing.T) {
	t.Parallel()
	target := testenv.Cluster(t)
	ways := map[string]func(t *testing.T, from, to string){"tables only": copyTables}
	if tools := dumpTools(t, target); tools != "" {
		ways["pg_dump"] = func(t *testing.T, from, to string) { dump(t, tools, from, to) }
	} else {
		t.Log("there is no pg_dump beside the server, or the tests run against another version")
	}
	for way, restore := range ways {
		t.Run(way, func(t *testing.T) {
			from, to := testenv.Database(t, "outbox", migrate), newDatabase(t, target)
			a := benchOf(t, from, testenv.NATS(t), "MEMBER_ESSENTIAL")
			b := benchOf(t, to, a.nats, a.stream)
			a.spendXIDs(b.xmax() + 1000)
			writer := a.begin()
			a.append(writer, event("x", 1)) // id 1
			_, stop := a.start(Hooks{})
			old := a.commit(3)
			a.published()
			a.age(2*time.Hour, 0)
			window := a.commit(2) // ids 5 and 6
			a.published()
			restore(t, from, to)
			lost := a.commit(2)
			a.published()
			stop()
			a.end(writer.Commit)

			b.age(staleAfter, 0)
			if p := b.position(); !p.moved || len(p.gaps) != 1 || p.gaps[0].stamp < b.xmax() {
				t.Fatalf("%+v: want moved, and a gap with a stamp that is in the future here", p)
			}
			var losses, foreign atomic.Int32
			hooks := Hooks{BrokerLost: func() { losses.Add(1) }, Foreign: func(uint64) { foreign.Add(1) }}
			_, stop = b.start(hooks)
			if way == "tables only" {
				b.eventually("a clear error", func() bool {
					return strings.Contains(b.log.String(), "is at 0, behind event 6: set it with setval")
				})
				b.exec(b.pool, "SELECT setval('outbox_event_essential_id_seq', 6)")
			}
			fresh := b.commit(4)
			b.published()
			b.noGaps()
			b.wantTimes(slices.Concat(old, window, lost, window, fresh))
			stop()
			b.start(hooks) // no replay this time: nothing is published again
			fresh = append(fresh, b.commit(2)...)
			b.published()
			b.wantTimes(slices.Concat(old, window, lost, window, fresh))
			if p := b.position(); p.moved || losses.Load()+foreign.Load() > 0 {
				t.Errorf("%+v, %d losses of the broker, %d alarms; want it settled", p, losses.Load(), foreign.Load())
			}
		})
	}
}

// An older physical copy keeps the system identifier: to the relay it is the same database after a crash that
// undid the last transactions. (This copy is a file copy within the cluster. A base backup is the same, and so
// is a standby that was promoted before it had received everything.) What was published after the copy is in the
// stream and unknown to the database. That raises an alarm, but blocks nothing, although the ids are allocated
// again.
func TestOlderPhysicalCopy(t *testing.T) {
	t.Parallel()
	broker := testenv.NATS(t)
	var before []string
	prepare := func(ctx context.Context, url string) error {
		if err := migrate(ctx, url); err != nil {
			return err
		}
		b := benchOf(t, url, broker, "MEMBER_ESSENTIAL")
		_, stop := b.start(Hooks{})
		before = b.commit(5)
		b.published()
		stop()
		b.pool.Close()
		return nil
	}
	template := newID() // of this run of the test
	a := benchOf(t, testenv.Database(t, template, prepare), broker, "MEMBER_ESSENTIAL")
	b := benchOf(t, testenv.Database(t, template, prepare), broker, "MEMBER_ESSENTIAL")
	_, stop := a.start(Hooks{})
	lost := a.commit(3) // ids 6 to 8
	a.published()
	stop()
	fresh := b.commit(5) // ids 6 to 10
	var losses atomic.Int32
	var foreign atomic.Uint64
	b.start(Hooks{BrokerLost: func() { losses.Add(1) }, Foreign: func(seq uint64) { foreign.Store(seq) }})
	b.published()
	b.noGaps()
	b.wantExactly(slices.Concat(before, lost, fresh))
	if losses.Load() != 0 || foreign.Load() != 6 {
		t.Errorf("%d losses of the broker, alarm at %d; want none and 6", losses.Load(), foreign.Load())
	}
}

// newDatabase creates an empty database in the test's cluster.
func newDatabase(t *testing.T, cluster string) string {
	t.Helper()
	name := "test_" + strings.ReplaceAll(newID(), "-", "")
	if _, err := connectTo(t, cluster).Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(cluster)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func connectTo(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// dumpTools returns the folder of the cluster's programs if it holds pg_dump and psql, and their version fits
// the server that the tests share.
func dumpTools(t *testing.T, cluster string) (dir string) {
	t.Helper()
	major := map[int]bool{}
	for _, server := range []string{testenv.Database(t, "version", nil), cluster} {
		var v int
		if err := connectTo(t, server).QueryRow(t.Context(), `-- name: serverPrograms
SELECT setting, current_setting('server_version_num')::int / 10000 FROM pg_config()
    WHERE name = 'BINDIR'`).Scan(&dir, &v); err != nil {
			t.Fatal(err)
		}
		major[v] = true
	}
	for _, program := range []string{"pg_dump", "psql"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil || len(major) > 1 {
			return ""
		}
	}
	return dir
}

// dump copies a database with pg_dump | psql.
func dump(t *testing.T, tools, from, to string) {
	t.Helper()
	script, err := exec.CommandContext(t.Context(), filepath.Join(tools, "pg_dump"), "--dbname", from).Output()
	if err != nil {
		t.Fatal(err)
	}
	load := exec.CommandContext(t.Context(), filepath.Join(tools, "psql"), "--quiet", "--no-psqlrc", "--set",
		"ON_ERROR_STOP=1", "--dbname", to)
	load.Stdin = bytes.NewReader(script)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
}

// copyTables migrates the target and copies the rows of the tables, as of one snapshot. It does not copy the
// sequence's position.
func copyTables(t *testing.T, from, to string) {
	t.Helper()
	if err := migrate(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	source, target := connectTo(t, from), connectTo(t, to)
	if _, err := target.Exec(t.Context(), "TRUNCATE outbox_checkpoint_essential"); err != nil {
		t.Fatal(err)
	}
	snapshot, err := source.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"outbox_event_essential", "outbox_checkpoint_essential", "outbox_dead_essential"} {
		var rows bytes.Buffer
		if _, err := source.PgConn().CopyTo(t.Context(), &rows, "COPY "+table+" TO STDOUT"); err != nil {
			t.Fatal(err)
		}
		if _, err := target.PgConn().CopyFrom(t.Context(), &rows, "COPY "+table+" FROM STDIN"); err != nil {
			t.Fatal(err)
		}
	}
	if err := snapshot.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// xmax returns an xid that is not assigned yet.
func (b *bench) xmax() (xid uint64) {
	b.t.Helper()
	if err := b.pool.QueryRow(b.t.Context(), "SELECT pg_snapshot_xmax(pg_current_snapshot())").Scan(&xid); err != nil {
		b.t.Fatal(err)
	}
	return xid
}

// spendXIDs runs transactions until their xids have reached until.
func (b *bench) spendXIDs(until uint64) {
	b.t.Helper()
	b.exec(b.pool,
		"CREATE PROCEDURE spend(xid8) LANGUAGE plpgsql AS 'BEGIN WHILE pg_current_xact_id() < $1 LOOP COMMIT; END "+
			"LOOP; END'")
	b.exec(b.pool, "CALL spend($1)", until)
}
