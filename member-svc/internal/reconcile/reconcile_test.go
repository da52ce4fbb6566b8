package reconcile_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/reconcile"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	engine "github.com/signup-saga/signup-saga/service/reconcile"
)

func TestMain(m *testing.M) { testenv.Main(m) }

type fixture struct {
	*reconcile.Reconciler
	t        *testing.T
	pool     *pgxpool.Pool
	store    *store.Store
	storages *storages
}

func open(t *testing.T, maxRepairs int) *fixture {
	t.Helper()
	f := &fixture{t: t, pool: storetest.Open(t), storages: newStorages(t)}
	f.store = store.New(f.pool, storetest.Steps, storetest.Secret, func() {})
	f.Reconciler = f.replica(maxRepairs)
	return f
}

// replica returns another reconciler on the same databases.
func (f *fixture) replica(maxRepairs int) *reconcile.Reconciler {
	return reconcile.New(
		engine.Config{MinAge: time.Minute, MaxRepairs: maxRepairs}, f.pool, f.store, storetest.Steps,
		slog.New(slog.DiscardHandler), reconcile.NewStorages(f.storages.URL+"/", token))
}

// member signs a member up and moves the saga to a state.
func (f *fixture) member(name string, state saga.State) store.Record {
	f.t.Helper()
	r := storetest.SignUp(f.t, f.store, name, "plus")
	events := map[saga.State][]saga.Event{
		saga.Ready:          {{Kind: saga.Provisioned, Generation: 1}},
		saga.NeedsAttention: {{Kind: saga.Rejected, Generation: 1}},
		saga.Withdrawing:    {{Kind: saga.Withdraw}},
		saga.Withdrawn:      {{Kind: saga.Withdraw}, {Kind: saga.Deprovisioned, Generation: 2}},
	}[state]
	for _, e := range events {
		e.Step, e.Error.Class = "storage", "rejected"
		if _, err := f.store.Apply(f.t.Context(), store.Change{SagaID: r.ID, Event: e}); err != nil {
			f.t.Fatal(err)
		}
	}
	return r
}

// settle makes everything that happened so far old, and deletes its events.
func (f *fixture) settle() {
	f.t.Helper()
	storetest.Exec(f.t, f.pool,
		"UPDATE signup_saga SET updated_at = now() - interval '1 hour', commanded_at = now() - interval '1 hour'")
	storetest.Exec(f.t, f.pool, "TRUNCATE outbox_event_essential")
}

// sent lists the commands since settle, in order: type, generation and quota.
func (f *fixture) sent() string {
	f.t.Helper()
	var got string
	if err := f.pool.QueryRow(f.t.Context(), `-- name: sent
SELECT coalesce(string_agg(concat_ws(' ', coalesce(m.username, 'left'), e.type, e.data->>'generation',
    e.data->>'quota_bytes'), ', ' ORDER BY m.username, e.id), '')
FROM (SELECT *, convert_from(payload, 'UTF8')::json AS data FROM outbox_event_essential) e JOIN member m
    ON m.id::text = e.key`).Scan(&got); err != nil {
		f.t.Fatal(err)
	}
	return got
}

func (f *fixture) run() reconcile.Books {
	f.t.Helper()
	report, err := f.Check(f.t.Context(), false)
	if err != nil {
		f.t.Fatal(err)
	}
	return report
}

func findings(r reconcile.Books) string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, string(f.Kind)+": "+f.Detail)
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

func TestEveryDisagreementIsFound(t *testing.T) {
	f := open(t, 100)
	for _, tc := range []struct {
		state           saga.State
		desired, status string // of the storage; "": no storage
	}{
		{saga.Ready, "present", "ready"}, {saga.Ready, "present", "pending"}, // correct, or being repaired
		{saga.Ready, "", ""}, {saga.Ready, "present", "rejected"}, {saga.Ready, "absent", "absent"},
		{saga.Ready, "absent", "pending"},
		{saga.Withdrawn, "", ""}, {saga.Withdrawn, "absent", "absent"}, {saga.Withdrawn, "absent", "pending"},
		{saga.Withdrawn, "present", "ready"}, {saga.Withdrawn, "present", "pending"},
		{saga.Withdrawn, "present", "rejected"}, {saga.Withdrawn, "absent", "rejected"},
		// in progress, or needs attention
		{saga.Provisioning, "", ""}, {saga.NeedsAttention, "present", "rejected"},
		{saga.Withdrawing, "present", "ready"},
	} {
		r := f.member(fmt.Sprintf("%s_%s_%s", tc.state, cmp.Or(tc.desired, "no"), cmp.Or(tc.status, "row")), tc.state)
		if tc.desired != "" {
			f.storages.put(r.MemberID, r.ID, 1, tc.desired, tc.status)
		}
	}
	other := f.member("double", saga.Ready)
	f.storages.put(other.MemberID, uuid.Must(uuid.NewV7()).String(), 1, "present", "ready")
	stranger := uuid.Must(uuid.NewV7()).String()
	f.storages.put(stranger, stranger, 3, "present", "ready")
	gone := uuid.Must(uuid.NewV7()).String()
	f.storages.put(gone, gone, 3, "absent", "absent") // of an unknown member, but nothing is left
	f.settle()

	before := storetest.Count(t, f.pool, "SELECT count(*) FROM saga_event")
	dry, err := f.Check(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(dry.Err(), engine.ErrFound) || f.sent() != "" ||
		storetest.Count(t, f.pool, "SELECT count(*) FROM saga_event") != before ||
		storetest.Count(t, f.pool, "SELECT count(*) FROM quarantine") != 0 {
		t.Errorf("a dry run did something: %s", f.sent())
	}
	report := f.run()
	if want := (store.Ledger{Accepted: 17, Ready: 7, InProgress: 2, NeedsAttention: 1,
		Withdrawn: 7}); report.Ledger != want || !report.Balances() {
		t.Errorf("ledger %+v, want %+v", report.Ledger, want)
	}
	if report.Stranded != 4 || report.Orphans != 5 || report.Doubles != 1 || report.Repaired != 8 {
		t.Errorf("%+v", report)
	}
	if findings(dry) != findings(report) {
		t.Errorf("the dry run found\n%s\nnot\n%s", findings(dry), findings(report))
	}
	if want := "ready_absent_absent storage.provision 1 107374182400, ready_absent_pending storage.provision 1 " +
		"107374182400, " +
		"ready_no_row storage.provision 1 107374182400, ready_present_rejected storage.provision 1 107374182400, " +
		"left storage.deprovision 2, left storage.deprovision 2, left storage.deprovision 2, left " +
		"storage.deprovision 2"; f.sent() != want {
		t.Errorf("sent\n%s\nwant\n%s", f.sent(), want)
	}
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM saga_event e JOIN signup_saga s ON s.id = e.saga_id AND s.version = e.version AND "+
			"s.state = e.state WHERE kind = 'commanded_again'"); n != 8 {
		t.Errorf("%d rows in timelines, want 8", n)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM quarantine WHERE member_id = $1 AND generation = 3",
		stranger); n != 1 {
		t.Error("the storage without an owner is not in quarantine")
	}
	status, err := engine.ReadStatus(t.Context(), f.pool)
	if err != nil || status.FinishedAt == nil || status.Stranded != 4 || status.Orphans != 5 || status.Doubles != 1 {
		t.Errorf("status %+v, %v", status, err)
	}
	// A command that was just sent has time to work before it is sent again. The difference still counts.
	if again := f.run(); again.Repaired != 0 || again.Stranded != 4 {
		t.Errorf("%+v", again)
	}
	var printed strings.Builder
	if err := report.Write(&printed); err != nil ||
		!strings.Contains(printed.String(), "stranded                   4\n") ||
		!strings.Contains(printed.String(), stranger+": unknown here, storage desired present, status ready") {
		t.Errorf("%v\n%s", err, printed.String())
	}
}

func TestBalancedBooks(t *testing.T) {
	f := open(t, 100)
	r := f.member("mina", saga.Ready)
	f.storages.put(r.MemberID, r.ID, 1, "present", "ready")
	f.member("nora", saga.Ready) // young: the list may not have the storage yet
	if report := f.run(); report.Err() != nil || f.sent() == "" {
		t.Errorf("%+v", report)
	}
	f.settle()
	storetest.Exec(t, f.pool,
		"INSERT INTO member (id, username, username_key, plan, password_hash, created_at) VALUES ($1, 'lost', "+
			"'lost', 'free', 'x', now())", uuid.Must(uuid.NewV7()))
	if report, err := f.Check(t.Context(), true); err != nil || report.Balances() ||
		!errors.Is(report.Err(), engine.ErrFound) {
		t.Errorf("a member without a saga: %+v, %v", report, err)
	}
}

// The list may be outdated by the time that it has been read.
func TestBothSidesAreReadAgain(t *testing.T) {
	f := open(t, 100)
	arrives, withdraws := f.member("arrives", saga.Ready), f.member("withdraws", saga.Ready)
	f.settle()
	f.storages.hook(func(path string) int {
		switch path {
		case "/v1/storages/" + arrives.MemberID:
			f.storages.put(arrives.MemberID, arrives.ID, 1, "present", "ready")
		case "/v1/storages/" + withdraws.MemberID:
			if _, err := f.store.Apply(context.Background(),
				store.Change{SagaID: withdraws.ID, Event: saga.Event{Kind: saga.Withdraw}}); err != nil {
				t.Error(err)
			}
		}
		return 0
	})
	report := f.run()
	if report.Stranded != 0 || report.Repaired != 0 {
		t.Errorf("%+v", report)
	}
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM outbox_event_essential WHERE type = 'storage.provision'"); n != 0 {
		t.Errorf("%d commands to create a storage for one who has it, or who left", n)
	}
}

// A member leaves between reconciliation's read and its write, just when their storage command would be sent
// again. Whoever writes first, the last command is to remove the storage.
func TestWithdrawWinsEveryRace(t *testing.T) {
	f := open(t, 100)
	for _, first := range []string{"withdraw", "command"} {
		r := f.member(first, saga.Ready)
		f.settle()
		lock, err := f.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Exec(t.Context(), "-- name: hold\nSELECT FROM signup_saga WHERE id = $1 FOR UPDATE",
			r.ID); err != nil {
			t.Fatal(err)
		}
		racers := map[string]func() error{
			"withdraw": func() error {
				_, err := f.store.Apply(context.Background(),
					store.Change{SagaID: r.ID, Event: saga.Event{Kind: saga.Withdraw}})
				return err
			},
			"command": func() error { _, err := f.Run(context.Background(), 0); return err },
		}
		second := "command"
		if first == second {
			second = "withdraw"
		}
		done := make(chan error, 2)
		for waiting, name := range []string{first, second} {
			go func() { done <- racers[name]() }()
			testenv.Eventually(t, 10*time.Second, name+" to wait for its turn", func() bool {
				return storetest.Count(t, f.pool,
					"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+
						"wait_event_type = 'Lock'") == waiting+1
			})
		}
		if err := errors.Join(lock.Commit(t.Context()), <-done, <-done); err != nil {
			t.Fatal(err)
		}
		want := "left storage.deprovision 2"
		if first == "command" {
			want = "left storage.provision 1 107374182400, " + want
		}
		if f.sent() != want {
			t.Errorf("%s first: sent %s, want %s", first, f.sent(), want)
		}
	}
}

// A saga that moves on between our read and our write gets no command.
func TestCommandIsGuardedByTheVersion(t *testing.T) {
	f := open(t, 100)
	f.member("mina", saga.Ready)
	f.settle()
	other, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(),
		"-- name: goOn\nUPDATE signup_saga SET state = 'needs_attention', error_class = 'generation_ahead', version "+
			"= version + 1"); err != nil {
		t.Fatal(err)
	}
	done := make(chan engine.Report, 1)
	go func() { report, _ := f.Run(context.Background(), 0); done <- report }()
	testenv.Eventually(t, 10*time.Second, "the run to wait for the other transaction", func() bool {
		return storetest.Count(t, f.pool,
			"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+
				"wait_event_type = 'Lock'") == 1
	})
	if err := other.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := <-done; report.Stranded != 1 || report.Repaired != 0 || f.sent() != "" {
		t.Errorf("%+v, sent %s", report, f.sent())
	}
}

func TestCommandIsOneTransaction(t *testing.T) {
	f := open(t, 100)
	f.member("mina", saga.Ready)
	f.settle()
	storetest.Exec(t, f.pool,
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''injected''; END'`)
	storetest.Exec(t, f.pool,
		"CREATE TRIGGER broken BEFORE INSERT ON outbox_event_essential FOR EACH ROW EXECUTE FUNCTION refuse()")
	if _, err := f.Run(t.Context(), 0); err == nil {
		t.Fatal("the outbox is broken, but nothing failed")
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM saga_event WHERE kind = 'commanded_again'"); n != 0 {
		t.Errorf("%d rows in the timeline for commands that were not sent", n)
	}
	storetest.Exec(t, f.pool, "DROP TRIGGER broken ON outbox_event_essential")
	if report := f.run(); report.Repaired != 1 { // the lease was released, and the command is still due
		t.Errorf("%+v", report)
	}
}

func TestCappedRunsTakeTurns(t *testing.T) {
	f := open(t, 2)
	for i := range 5 {
		f.member(fmt.Sprint("mina", i), saga.Ready)
	}
	f.settle()
	for i, want := range []int{2, 2, 1, 0} {
		report := f.run()
		if report.Repaired != want || report.Stranded != 5 {
			t.Errorf("run %d: %+v, want %d commands and 5 stranded", i, report, want)
		}
	}
}

func TestQuarantineEndsWhenTheOwnerIsBack(t *testing.T) {
	f := open(t, 2)
	r := f.member("mina", saga.Ready)
	f.storages.put(r.MemberID, r.ID, 1, "present", "ready")
	f.settle()
	storetest.Exec(t, f.pool, "DELETE FROM saga_event")
	storetest.Exec(t, f.pool, "CREATE TABLE away AS SELECT * FROM signup_saga")
	storetest.Exec(t, f.pool, "DELETE FROM signup_saga") // an old backup was restored
	for range 3 {
		id := uuid.Must(uuid.NewV7()).String()
		f.storages.put(id, id, 1, "present", "ready")
	}
	inQuarantine := func(want int) {
		t.Helper()
		if n := storetest.Count(t, f.pool, "SELECT count(*) FROM quarantine"); n != want {
			t.Errorf("%d in quarantine, want %d", n, want)
		}
	}
	for _, want := range []int{2, 4, 4, 4} { // examined: 2, 2, none, 2
		if report := f.run(); report.Orphans != 4 {
			t.Errorf("%d orphans, want 4", report.Orphans)
		}
		inQuarantine(want)
	}
	if f.sent() != "" {
		t.Errorf("sent %s", f.sent())
	}
	storetest.Exec(t, f.pool, "INSERT INTO signup_saga SELECT * FROM away")
	f.Reconciler = f.replica(100)
	for range 2 { // the first run ends the round, the second examines everything
		f.run()
	}
	inQuarantine(3)
}
