package outbox

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

// psql runs files with the psql program.
func psql(t *testing.T, url string, files ...string) {
	t.Helper()
	program, err := exec.LookPath("psql")
	if err != nil {
		if program = filepath.Join(dumpTools(t, url), "psql"); !filepath.IsAbs(program) {
			t.Fatal("there is no psql: install PostgreSQL's client programs")
		}
	}
	for _, file := range files {
		cmd := exec.CommandContext(t.Context(), program, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1",
			"--single-transaction", "--dbname", url, "--file", filepath.Join("migrations", file))
		cmd.Env = append(os.Environ(), "PGOPTIONS=-c client_min_messages=warning")
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("psql -f %s: %v\n%s", file, err, out)
		}
	}
}

// functions returns the names of the outbox's functions and tables in a database.
func functions(t *testing.T, conn *pgx.Conn) (names []string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), `SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM (
SELECT proname::text AS name FROM pg_proc UNION ALL SELECT relname FROM pg_class WHERE relkind = 'r') o
WHERE name LIKE 'outbox%'`).Scan(&names); err != nil {
		t.Fatal(err)
	}
	return names
}

// psql -f applies each migration, and each file in down undoes the migration of the same name.
func TestMigrationsRunInPsql(t *testing.T) {
	t.Parallel()
	url := testenv.Database(t, "empty", nil)
	conn := connectTo(t, url)
	ups, err := fs.Glob(Migrations, "migrations/*.sql")
	if err != nil || len(ups) == 0 {
		t.Fatal(ups, err)
	}
	var states [][]string
	for _, up := range ups {
		states = append(states, functions(t, conn))
		psql(t, url, filepath.Base(up))
		if text, err := fs.ReadFile(Migrations, up); err != nil || strings.Contains(string(text), "+goose Down") {
			t.Errorf("%s takes itself back when psql runs it, or %v", up, err)
		}
	}
	want := []string{"outbox_create_lane", "outbox_create_lane_tables", "outbox_drop_lane", "outbox_lane"}
	if got := functions(t, conn); !slices.Equal(got, want) {
		t.Fatalf("there are %v, want %v", got, want)
	}
	_, err = conn.Exec(t.Context(), "SELECT outbox_create_lane('essential'); SELECT outbox_drop_lane('essential')")
	if err != nil {
		t.Error(err)
	}
	for i, up := range slices.Backward(ups) {
		psql(t, url, filepath.Join("down", filepath.Base(up)))
		if got := functions(t, conn); !slices.Equal(got, states[i]) {
			t.Errorf("down/%s leaves %v, want %v", filepath.Base(up), got, states[i])
		}
	}
}

// A lane is dropped with everything in it, unless it holds unpublished or dead events.
func TestDropLane(t *testing.T) {
	b := newBench(t)
	refused := func(why string) {
		t.Helper()
		_, err := b.pool.Exec(t.Context(), "SELECT outbox_drop_lane('essential')")
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, want %q", err, why)
		}
	}
	b.commit(2)
	refused("lane 'essential' has unpublished events")
	_, stop := b.start(Hooks{})
	b.published()
	late := b.begin()
	b.append(late, event("late", 1))
	b.commit(1)
	b.published()
	stop()
	b.end(late.Commit)
	refused("lane 'essential' has unpublished events") // in a gap
	_, stop = b.start(Hooks{})
	b.noGaps()
	dies := event("dies", 1)
	dies.Type = "no spaces allowed"
	tx := b.begin()
	b.append(tx, dies)
	b.end(tx.Commit)
	b.published()
	stop()
	refused("lane 'essential' has dead events")
	b.exec(b.pool, "DELETE FROM outbox_dead_essential")
	b.exec(b.pool, "SELECT outbox_drop_lane('essential')")
	refused("lane 'essential' does not exist")
	b.exec(b.pool, "SELECT outbox_create_lane('essential')") // its name and its stream are available again
	b.commit(1)
	b.exec(b.pool, "SELECT outbox_drop_lane('essential', true)")
	conn := connectTo(t, b.pool.Config().ConnString())
	if left := functions(t, conn); slices.Contains(left, "outbox_event_essential") {
		t.Errorf("%v is left", left)
	}
}

func TestCreateLaneNamesTheMistake(t *testing.T) {
	b := newBench(t)
	for sql, want := range map[string]string{
		"SELECT outbox_create_lane('essential')": "outbox: lane 'essential' exists already",
		"SELECT outbox_create_lane('No Lane')":   "outbox: 'No Lane' is not a lane name",
		"SELECT outbox_create_lane(NULL)":        "outbox: the lane has no name",
		"SELECT outbox_drop_lane(NULL)":          "outbox: lane NULL does not exist",
	} {
		if _, err := b.pool.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", sql, err, want)
		}
	}
}
