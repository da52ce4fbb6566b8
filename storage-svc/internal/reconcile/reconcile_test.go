package reconcile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
	engine "github.com/signup-saga/signup-saga/service/reconcile"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const saga = "01999e5c-0000-7000-8000-00000000000b"

func id(i int) string { return fmt.Sprintf("01999e5c-0000-7000-8000-%012x", i) }

// lists is a provider that calls the function before, if it is set, ahead of each List.
type lists struct {
	provision.Provider
	before func(after string, limit int) error
}

func (l *lists) List(ctx context.Context, after string, limit int) ([]provision.Resource, error) {
	if l.before != nil {
		if err := l.before(after, limit); err != nil {
			return nil, err
		}
	}
	return l.Provider.List(ctx, after, limit)
}

type fixture struct {
	t        *testing.T
	pool     *pgxpool.Pool
	store    *store.Store
	dir      string
	ledger   string
	provider *lists
	*reconcile.Reconciler
}

func open(t *testing.T) *fixture {
	t.Helper()
	url := testenv.Database(t, "storage", func(ctx context.Context, url string) error {
		return service.Migrate(ctx, url, slog.New(slog.DiscardHandler), store.Migrations...)
	})
	pool, err := service.OpenPool(t.Context(), service.NewSecret(url), service.Common{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f := &fixture{t: t, pool: pool, store: store.New(pool, nil), dir: t.TempDir(),
		ledger: filepath.Join(t.TempDir(), "ledger")}
	ledger := provider.NewLedger(f.ledger, f.store)
	files := provider.NewFS(f.dir, f.store, ledger)
	if _, err := provider.Identify(t.Context(), files, f.store, false); err != nil {
		t.Fatal(err)
	}
	f.provider = &lists{Provider: files}
	f.Reconciler = reconcile.New(
		engine.Config{MinAge: time.Minute, MaxRepairs: 100}, pool, f.provider, slog.New(slog.DiscardHandler))
	return f
}

// work runs a worker until nothing is pending.
func (f *fixture) work() {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	w := &provision.Worker{
		Queue: f.store, Provider: f.provider,
		Policy:      provision.Policy{Base: time.Millisecond, Cap: time.Millisecond, OutageCap: time.Millisecond},
		Concurrency: 4, Timeout: 10 * time.Second, Lease: 30 * time.Second, Log: slog.New(slog.DiscardHandler),
	}
	wg.Go(func() { _ = w.Run(ctx) })
	testenv.Eventually(f.t, 20*time.Second, "nothing to be pending",
		func() bool { return f.count("storage WHERE status = 'pending'") == 0 })
	cancel()
	wg.Wait()
}

// command applies commands and lets the worker reach the desired state.
func (f *fixture) command(generation int64, d provision.Desired, members ...int) {
	f.t.Helper()
	var commands []provision.Command
	for _, m := range members {
		commands = append(commands,
			provision.Command{MemberID: id(m), SagaID: saga, Generation: generation, Desired: d, QuotaBytes: 5})
	}
	if err := f.store.Apply(f.t.Context(), commands, nil); err != nil {
		f.t.Fatal(err)
	}
	f.work()
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), "-- name: testExec\n"+sql, args...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) count(from string, args ...any) int {
	f.t.Helper()
	var n int
	err := f.pool.QueryRow(f.t.Context(), "-- name: testCount\nSELECT count(*) FROM "+from, args...).Scan(&n)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func (f *fixture) settle() {
	f.t.Helper()
	f.exec("UPDATE storage SET updated_at = now() - interval '1 hour'")
	f.exec("TRUNCATE outbox_event_essential")
}

// place returns the directory of a member at the provider.
func (f *fixture) place(i int) string { return filepath.Join(f.dir, id(i)[34:], id(i)) }

func (f *fixture) marker(i int) string { return filepath.Join(f.place(i), "owner") }

func (f *fixture) write(path, content string) {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750),
		os.WriteFile(path, []byte(content), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) live(i int) string {
	return fmt.Sprintf(`{"member_id":%q,"generation":1}`, id(i))
}

// at returns the state of a member's resource at the provider.
func (f *fixture) at(i int) provision.ResourceState {
	f.t.Helper()
	all, err := f.provider.Provider.List(f.t.Context(), "", provision.MaxResources)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range all {
		if r.MemberID == id(i) {
			return r.State
		}
	}
	return "missing"
}

func (f *fixture) run() engine.Report {
	f.t.Helper()
	report, err := f.Run(f.t.Context(), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return report
}

func findings(r engine.Report) string {
	var all []string
	for _, found := range r.Findings {
		all = append(all, found.Key[len(found.Key)-2:]+" "+string(found.Kind)+": "+found.Detail)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func TestUndoneWorkIsDoneAgain(t *testing.T) {
	f := open(t)
	f.command(1, provision.Present, 1, 2, 3, 4, 5)
	f.command(2, provision.Absent, 6, 7, 8, 9)
	f.exec(
		"UPDATE storage SET status = 'rejected', last_error_class = 'rejected', last_error = 'x' WHERE member_id = $1",
		id(5))
	// 1 and 6 stay as they are; 5 is rejected. The rest was changed at the provider:
	if err := errors.Join(os.Remove(f.marker(2)), os.RemoveAll(f.place(3)), os.RemoveAll(f.place(5))); err != nil {
		t.Fatal(err)
	}
	f.write(filepath.Join(f.place(2), "data"), "left") // data without a marker
	f.write(f.marker(4), `{"member_id":"`+id(4)+`","generation":9,"tombstone":true}`)
	f.write(f.marker(7), f.live(7))
	if err := os.Remove(f.marker(8)); err != nil {
		t.Fatal(err)
	}
	f.write(filepath.Join(f.place(8), "data"), "left")
	f.write(f.marker(9), "{")
	f.write(f.marker(20), f.live(20)) // nobody knows this one
	f.write(f.marker(21), `{"member_id":"`+id(21)+`","generation":1,"tombstone":true}`)
	f.settle()

	dry, err := f.Check(t.Context(), true)
	if err != nil || f.count("storage WHERE status = 'pending'")+f.count("quarantine") != 0 {
		t.Errorf("a dry run did something: %v", err)
	}
	report := f.run()
	if want := strings.Join([]string{
		"02 stranded: ready, at the provider orphaned", "03 stranded: ready, at the provider missing",
		"04 stranded: ready, at the provider tombstone",
		"07 orphan: removed, at the provider live", "08 orphan: removed, at the provider orphaned",
		"09 orphan: removed, at the provider damaged",
		"14 orphan: unknown here, at the provider live",
	}, "\n"); findings(report) != want || findings(dry) != want {
		t.Errorf("found\n%s\ndry\n%s\nwant\n%s", findings(report), findings(dry), want)
	}
	if report.Repaired != 4 || f.count(`storage WHERE status = 'pending' AND version = 3 AND attempts = 0
		AND generation = CASE desired WHEN 'absent' THEN 2 ELSE 1 END`) != 4 {
		t.Errorf("%+v", report)
	}
	if f.count("quarantine WHERE member_id = ANY ($1::text[]::uuid[])", []string{id(9), id(20)}) != 2 ||
		f.count("quarantine") != 2 {
		t.Error("not in quarantine: the damaged marker and the one that nobody knows")
	}
	f.work()
	for i, want := range map[int]provision.ResourceState{
		1: "live", 2: "live", 3: "live", 4: "tombstone", 5: "missing", 6: "tombstone", 7: "tombstone", 8: "tombstone",
		9: "damaged", 20: "live", 21: "tombstone",
	} {
		if got := f.at(i); got != want {
			t.Errorf("member %d: at the provider %s, want %s", i, got, want)
		}
	}
	// The replies repeat what the Member service knows: the generation is the same.
	if n := f.count(`outbox_event_essential WHERE type = CASE headers->>'ce-generation'
		WHEN '1' THEN 'storage.provisioned' ELSE 'storage.deprovisioned' END`); n != 4 ||
		f.count("outbox_event_essential") != 4 {
		t.Errorf("%d replies of the right kind, want 4", n)
	}
	f.settle()
	if again := f.run(); again.Stranded != 1 || again.Orphans != 2 || again.Repaired != 0 {
		t.Errorf("what an operator has to check: %+v", again)
	}
}

func TestYoungAndPendingStoragesAreLeftAlone(t *testing.T) {
	f := open(t)
	f.command(1, provision.Present, 1)
	if err := os.RemoveAll(f.place(1)); err != nil {
		t.Fatal(err)
	}
	if report := f.run(); report.Err() != nil {
		t.Errorf("young: %+v", report)
	}
	f.exec(`UPDATE storage SET status = 'pending', next_attempt_at = now() + interval '1 hour',
		updated_at = now() - interval '1 hour'`)
	if report := f.run(); report.Err() != nil {
		t.Errorf("pending: %+v", report)
	}
}

// A withdrawal that is commanded between the recheck and the write wins.
func TestCommandWinsTheRace(t *testing.T) {
	f := open(t)
	f.command(1, provision.Present, 1)
	if err := os.RemoveAll(f.place(1)); err != nil {
		t.Fatal(err)
	}
	f.settle()
	other, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(),
		"-- name: withdraw\nUPDATE storage SET generation = 2, desired = 'absent', status = 'pending', "+
			"next_attempt_at = now(), version = version + 1"); err != nil {
		t.Fatal(err)
	}
	done := make(chan engine.Report, 1)
	go func() { report, _ := f.Run(context.Background(), 0); done <- report }()
	testenv.Eventually(t, 10*time.Second, "the run to wait for the command", func() bool {
		return f.count("pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 1
	})
	if err := other.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := <-done; report.Stranded != 1 || report.Repaired != 0 {
		t.Errorf("%+v", report)
	}
	f.work()
	if f.at(1) != provision.ResourceTombstone || f.count("storage WHERE status = 'absent' AND generation = 2") != 1 {
		t.Errorf("at the provider %s", f.at(1))
	}
}

// A worker creates a storage that was missing from the list.
func TestWorkerWinsTheRace(t *testing.T) {
	f := open(t)
	f.command(1, provision.Present, 1, 2)
	if err := errors.Join(os.RemoveAll(f.place(1)), os.RemoveAll(f.place(2))); err != nil {
		t.Fatal(err)
	}
	f.settle()
	f.provider.before = func(_ string, limit int) error {
		if limit == 1 { // the recheck: the storage has come back meanwhile
			f.write(f.marker(1), f.live(1))
		}
		return nil
	}
	if report := f.run(); report.Stranded != 1 || report.Repaired != 1 || report.Findings[0].Key != id(2) {
		t.Errorf("%+v", report)
	}
	f.work()
	var lines []string
	raw, err := os.ReadFile(f.ledger)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var l provider.Line
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(l.Op)+" "+l.MemberID[34:])
	}
	// 02 was destroyed without a line in the ledger
	if slices.Sort(lines); fmt.Sprint(lines) != "[create 01 create 02 create 02]" {
		t.Errorf("ledger %v", lines)
	}
}

func TestProviderAwayPutsItOff(t *testing.T) {
	f := open(t)
	f.command(1, provision.Present, 1)
	f.settle()
	away := errors.New("away")
	f.provider.before = func(string, int) error { return away }
	if _, err := f.Run(t.Context(), time.Hour); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	f.provider.before = nil
	if _, err := f.Run(t.Context(), time.Hour); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("begun again at once: %v", err)
	}
	if f.count("storage WHERE status = 'ready'") != 1 {
		t.Error("a storage was taken for missing because a list failed")
	}
}

// A process dies in the middle of a run: its changes stay, and the next run does the rest when the lease has
// run out.
func TestCrashInTheMiddleOfARun(t *testing.T) {
	f := open(t)
	f.command(1, provision.Present, 1, 2, 3)
	if err := errors.Join(os.RemoveAll(f.place(1)), os.RemoveAll(f.place(2)), os.RemoveAll(f.place(3))); err != nil {
		t.Fatal(err)
	}
	f.settle()
	ctx, die := context.WithCancel(context.Background())
	f.provider.before = func(_ string, limit int) error {
		if limit == 1 && f.count("storage WHERE status = 'pending'") == 1 {
			f.exec("UPDATE reconciliation SET holder = gen_random_uuid()") // a dead process does not release its lease
			die()
			return ctx.Err()
		}
		return nil
	}
	if _, err := f.Run(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	f.provider.before = nil
	if f.count("storage WHERE status = 'pending'") != 1 {
		t.Fatal("the run did not die in its middle")
	}
	if _, err := f.Run(t.Context(), 0); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("the lease of the dead: %v", err)
	}
	f.exec("UPDATE reconciliation SET lease_until = now()")
	if report := f.run(); report.Repaired != 2 {
		t.Errorf("%+v", report)
	}
	f.work()
	for i := 1; i <= 3; i++ {
		if f.at(i) != provision.ResourceLive {
			t.Errorf("member %d: at the provider %s", i, f.at(i))
		}
	}
}

// The run meets the directory of another deployment, an empty one, or one that is mounted in the middle of the
// run. It is put off: nothing is judged, repaired or quarantined.
func TestAnotherPlaceIsNotJudged(t *testing.T) {
	theirs := open(t)
	theirs.command(1, provision.Present, 7, 8)
	f := open(t)
	f.command(1, provision.Present, 1, 2, 3)
	f.command(2, provision.Absent, 3)
	f.settle()
	away := f.dir + "-volume"
	mount := func(place string) error { return errors.Join(os.Rename(f.dir, away), os.Symlink(place, f.dir)) }
	unmount := func() error { return errors.Join(os.Remove(f.dir), os.Rename(away, f.dir)) }
	for name, place := range map[string]string{
		"another deployment's": theirs.dir, "an empty one": t.TempDir(), "none": f.dir + "-none",
	} {
		for _, when := range []string{"from the start", "for the second read"} {
			second := false
			if when == "from the start" {
				must(t, mount(place))
			} else {
				must(t, os.RemoveAll(f.place(2))) // it would be found missing
				f.provider.before = func(_ string, limit int) error {
					if limit == 1 && !second {
						second = true
						return mount(place)
					}
					return nil
				}
			}
			_, err := f.Run(t.Context(), 0)
			if wrong := new(provider.IdentityError); !errors.As(err, &wrong) {
				t.Errorf("%s, %s: %v", name, when, err)
			}
			if n := f.count("storage WHERE status = 'pending'") + f.count("quarantine"); n != 0 {
				t.Errorf("%s, %s: %d were judged", name, when, n)
			}
			f.provider.before = nil
			must(t, unmount())
		}
	}
	if got := theirs.count("storage WHERE status = 'ready'"); got != 2 {
		t.Errorf("the other deployment has %d", got)
	}
}

// A directory that was restored from a backup is the right one: what it lacks is created again, and what it has
// in excess is removed.
func TestRestoredDirectoryIsRepaired(t *testing.T) {
	f := open(t)
	f.command(1, provision.Present, 1)
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, os.CopyFS(backup, os.DirFS(f.dir)))
	f.command(1, provision.Present, 2)
	f.command(2, provision.Absent, 1)
	f.settle()
	must(t, os.RemoveAll(f.dir), os.Rename(backup, f.dir))
	if _, err := f.Run(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	f.work()
	for m, want := range map[int]provision.ResourceState{1: provision.ResourceTombstone, 2: provision.ResourceLive} {
		found, err := f.provider.List(t.Context(), "", 10)
		i := slices.IndexFunc(found, func(r provision.Resource) bool { return r.MemberID == id(m) })
		if err != nil || i < 0 || found[i].State != want {
			t.Errorf("%d: %+v, %v; want %s", m, found, err, want)
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
