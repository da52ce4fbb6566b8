package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

// canary signs up a recognisable member, with everything that is stored about a member.
func (f *fixture) canary(t *testing.T, name string) store.Record {
	t.Helper()
	m, r, effects := f.begin(name)
	m.PasswordHash = "$argon2id$" + name
	body := fmt.Appendf(nil, `{"signup_id":%q,"username":%q}`, r.SignupID, name)
	key := &store.Key{Value: "key-" + r.ID, Fingerprint: []byte("x"), Response: body}
	if err := f.SignUp(t.Context(), m, r, effects, key); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, f.pool, "INSERT INTO mail (member_id, kind) VALUES ($1, 'welcome')", m.ID)
	if _, err := f.OpenSession(t.Context(), m.ID, m.PasswordHash, token(name), time.Hour); err != nil {
		t.Fatal(err)
	}
	return r
}

func token(name string) []byte { return fmt.Appendf(nil, "%-32.32s", "token of "+name) }

// remains counts the rows in the whole database that still contain a text.
func (f *fixture) remains(t *testing.T, text string) map[string]int {
	t.Helper()
	found := map[string]int{}
	rows, err := f.pool.Query(t.Context(),
		"-- name: testTables\nSELECT tablename FROM pg_tables WHERE schemaname = 'public'")
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	for _, table := range tables { // bytea is shown in hexadecimal
		n := storetest.Count(t, f.pool,
			fmt.Sprintf(
				"SELECT count(*) FROM %s x WHERE strpos(x::text, $1) > 0 OR strpos(x::text, encode($1::text::bytea, "+
					"'hex')) > 0", table), text)
		if n > 0 {
			found[table] = n
		}
	}
	return found
}

func TestWithdrawalErasesTheMember(t *testing.T) {
	f := open(t)
	r, other := f.canary(t, "canary"), f.canary(t, "other")
	if before := f.remains(t, "canary"); before["member"] != 1 || before["idempotency_key"] != 1 ||
		before["session"] != 1 {
		t.Fatalf("the search finds nothing: %v", before)
	}
	result := f.apply(t, r.ID, saga.Event{Kind: saga.Withdraw, Actor: "ann", Reason: "asked by letter"})
	if result.State != saga.Withdrawing || result.Username != nil {
		t.Errorf("%+v", result.Record)
	}
	if left := f.remains(t, "canary"); len(left) != 0 {
		t.Errorf("still there: %v", left)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM mail WHERE member_id = $1 AND state = 'dropped'",
		r.MemberID); n != 1 {
		t.Error("the mail is still in the queue")
	}
	if got, _, err := f.Get(t.Context(), r.ID); err != nil || got.Username != nil || got.SignupID != r.SignupID {
		t.Errorf("%+v %v", got, err)
	}
	if c, err := f.Credentials(t.Context(), "canary"); err != nil || c != (store.Credentials{}) {
		t.Errorf("the member can still sign in: %v", err)
	}
	if _, err := f.AccountBySession(t.Context(), token("other")); err != nil {
		t.Errorf("somebody else's session: %v", err)
	}
	if left := f.remains(t, "other"); left["member"] != 1 || left["idempotency_key"] != 1 {
		t.Errorf("somebody else: %v", left)
	}
	// The name stays taken, both for the look-up and for the constraint.
	if known, err := f.LookUp(t.Context(), "canary", "", ""); err != nil || !known.Taken {
		t.Errorf("%+v %v", known, err)
	}
	m, again, effects := f.begin("canary")
	if err := f.SignUp(t.Context(), m, again, effects, nil); !errors.Is(err, store.ErrTaken) {
		t.Errorf("the name was taken again: %v", err)
	}
	if known, err := f.LookUp(t.Context(), "free", "key-"+r.ID, ""); err != nil || known.Response != nil {
		t.Errorf("the key is kept: %s %v", known.Response, err)
	}
	f.apply(t, r.ID, reply(saga.Deprovisioned, 2))
	if got := f.apply(t, other.ID, reply(saga.Provisioned, 1)); got.State != saga.Ready {
		t.Errorf("somebody else: %+v", got)
	}
}

func TestWithdrawalIsStoredWholeOrNotAtAll(t *testing.T) {
	f := open(t)
	r := f.canary(t, "canary")
	storetest.Exec(t, f.pool,
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''injected''; END'`)
	change := store.Change{SagaID: r.ID, Event: saga.Event{Kind: saga.Withdraw, Actor: "ann", Reason: "x"}}
	for _, table := range []string{"signup_saga", "member", "session", "mail", "idempotency_key", "saga_event",
		"admin_audit", "outbox_event_essential"} {
		storetest.Exec(t, f.pool,
			fmt.Sprintf(
				"CREATE TRIGGER broken BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION refuse()",
				table))
		if _, err := f.Apply(t.Context(), change); err == nil || !strings.Contains(err.Error(), "injected") {
			t.Errorf("%s is broken: %v", table, err)
		}
		got, timeline, err := f.Get(t.Context(), r.ID)
		left := f.remains(t, "canary")
		if err != nil || got.Version != 1 || len(timeline) != 1 || left["member"] != 1 || left["session"] != 1 ||
			left["idempotency_key"] != 1 {
			t.Errorf("%s broken: %+v %v %v", table, got, left, err)
		}
		storetest.Exec(t, f.pool, "DROP TRIGGER broken ON "+table)
	}
	if _, err := f.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

func TestSessions(t *testing.T) {
	f := open(t)
	r := f.canary(t, "mina")
	hash := "$argon2id$mina"
	_, err := f.OpenSession(t.Context(), r.MemberID, "another hash", token("x"), time.Hour)
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another hash: %v", err)
	}
	for i := range 25 {
		expires, err := f.OpenSession(t.Context(), r.MemberID, hash, token(fmt.Sprint(i)), time.Hour)
		if left := time.Until(expires); err != nil || left > time.Hour || left < 59*time.Minute {
			t.Fatalf("%s %v", left, err)
		}
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM session"); n != 20 {
		t.Errorf("%d sessions of one member, want 20", n)
	}
	if _, err := f.AccountBySession(t.Context(), token("4")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the oldest end first: %v", err)
	}
	if a, err := f.AccountBySession(t.Context(), token("5")); err != nil || *a.Username != "mina" ||
		a.PasswordHash != hash {
		t.Errorf("%+v %v", a, err)
	}
	storetest.Exec(t, f.pool, "UPDATE session SET expires_at = now() WHERE token_hash <> $1", token("24"))
	if _, err := f.AccountBySession(t.Context(), token("5")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("its time is over: %v", err)
	}
	if err := f.CloseSession(t.Context(), token("5")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("closed although its time was over: %v", err)
	}
	for _, want := range []int64{15, 4, 0} {
		if n, err := f.ForgetExpiredSessions(t.Context(), 15); n != want || err != nil {
			t.Errorf("forgot %d, want %d; %v", n, want, err)
		}
	}
	if err := f.CloseSession(t.Context(), token("24")); err != nil {
		t.Error(err)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM session"); n != 0 {
		t.Errorf("%d sessions left", n)
	}
}

// A username that does not exist does not get the credentials of the preceding one, whose row is read instead.
func TestCredentialsAreOnesOwn(t *testing.T) {
	f := open(t)
	first, last := f.signUp(t, "mina"), f.signUp(t, "nora")
	for name, want := range map[string]string{"mina": first.MemberID, "nora": last.MemberID, "": "", "a": "", "min": "",
		"minaa": "", "nor": "", "noraa": "", "zoe": ""} {
		if c, err := f.Credentials(t.Context(), name); err != nil || c.MemberID != want ||
			(c.PasswordHash == "") != (want == "") {
			t.Errorf("%q: %+v %v", name, c, err)
		}
	}
}

// Of concurrent renewals of a hash, the first one wins; a member who has left stays erased.
func TestRenewHash(t *testing.T) {
	f := open(t)
	r := f.canary(t, "mina")
	for _, step := range []struct{ old, renewed, want string }{
		{"$argon2id$mina", "first", "first"}, {"$argon2id$mina", "second", "first"}, {"first", "third", "third"},
	} {
		err := f.RenewHash(t.Context(), r.MemberID, step.old, step.renewed)
		if c, bad := f.Credentials(t.Context(), "mina"); err != nil || bad != nil || c.PasswordHash != step.want {
			t.Errorf("%+v: %+v %v %v", step, c, err, bad)
		}
	}
	f.apply(t, r.ID, saga.Event{Kind: saga.Withdraw})
	if err := f.RenewHash(t.Context(), r.MemberID, "third", "fourth"); err != nil {
		t.Fatal(err)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM member WHERE password_hash = ''"); n != 1 {
		t.Error("a member who left has a password again")
	}
}

// A withdrawal races three other events of a saga, 2,000 times. One compare-and-swap decides each race, and in
// the end the member has left, once.
func TestWithdrawalRacesEverything(t *testing.T) {
	f := open(t)
	const sagas, workers = 2000, 4
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < sagas && !t.Failed(); i += workers {
				f.race(t, fmt.Sprint("mina", i))
			}
		})
	}
	wg.Wait()
	f.checkWithdrawals(t, sagas)
}

func (f *fixture) race(t *testing.T, name string) {
	m, r, effects := f.begin(name)
	if err := f.SignUp(context.Background(), m, r, effects, nil); err != nil {
		t.Error(err)
	}
	things := f.things(m, r)
	rand.Shuffle(len(things), func(i, j int) { things[i], things[j] = things[j], things[i] })
	withdraw := func(ctx context.Context) error {
		return f.happens(ctx, r, saga.Event{Kind: saga.Withdraw})
	}
	var wg sync.WaitGroup
	for _, thing := range append(things[:3], withdraw) {
		wg.Go(func() {
			if err := thing(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func (f *fixture) happens(ctx context.Context, r store.Record, e saga.Event) error {
	_, err := f.Apply(ctx, store.Change{SagaID: r.ID, Event: e})
	return err
}

// things are the events that may race a withdrawal.
func (f *fixture) things(m store.Member, r store.Record) []func(context.Context) error {
	retry := saga.Event{Kind: saga.Retried, Actor: "bob", Reason: "room made"}
	return []func(context.Context) error{
		func(ctx context.Context) error {
			return f.happens(ctx, r, saga.Event{Kind: saga.Withdraw, Actor: "ann", Reason: "asked by letter"})
		},
		func(ctx context.Context) error { return f.happens(ctx, r, reply(saga.Provisioned, 1)) },
		func(ctx context.Context) error {
			return errors.Join(f.happens(ctx, r, reply(saga.Rejected, 1)), f.happens(ctx, r, retry))
		},
		func(ctx context.Context) error { // the reply to the newest committed command
			var newest int64
			err := f.pool.QueryRow(ctx,
				"-- name: testNewest\nSELECT max((headers->>'ce-generation')::bigint) FROM outbox_event_essential "+
					"WHERE key = $1", m.ID).Scan(&newest)
			return errors.Join(err, f.happens(ctx, r, reply(saga.Rejected, newest)))
		},
		func(ctx context.Context) error { // the timer, past the give-up age
			_, err := f.pool.Exec(ctx,
				"-- name: testDue\nUPDATE signup_saga SET due_at = now(), opened_at = opened_at - interval '25 "+
					"hours' WHERE id = $1 AND due_at IS NOT NULL", r.ID)
			if err == nil {
				_, err = f.Redrive(ctx, 1_000_000, 10)
			}
			return err
		},
		func(ctx context.Context) error { // a sign-in whose password was right a moment ago
			_, err := f.OpenSession(ctx, m.ID, m.PasswordHash, token(m.Username), time.Hour)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		},
	}
}

// checkWithdrawals checks what was written.
func (f *fixture) checkWithdrawals(t *testing.T, sagas int) {
	t.Helper()
	for _, bad := range []string{
		// one transition per version, generations monotone
		`SELECT s.id FROM signup_saga s JOIN saga_event e ON e.saga_id = s.id AND e.kind NOT LIKE '%_ignored'
		    AND e.kind <> 'redriven'
		 GROUP BY s.id HAVING count(*) <> s.version OR count(DISTINCT e.version) <> s.version`,
		`SELECT 1 FROM (SELECT version, lag(version) OVER w AS v, generation, lag(generation) OVER w AS g
		    FROM saga_event WINDOW w AS (PARTITION BY saga_id ORDER BY version, id)) x WHERE generation < g`,
		// withdrawn once, whoever asked; audited if and only if an operator did
		`SELECT s.id FROM signup_saga s LEFT JOIN saga_event e ON e.saga_id = s.id AND e.kind = 'withdraw'
		    GROUP BY s.id HAVING count(e.id) <> 1`,
		`SELECT 1 FROM (SELECT saga_id, kind, actor FROM saga_event WHERE actor <> '') e FULL JOIN admin_audit a
		    ON (a.saga_id, a.action, a.actor) = (e.saga_id, e.kind, e.actor) WHERE a.id IS NULL OR e.kind IS NULL`,
		// no provision command after a removal command
		`SELECT 1 FROM outbox_event_essential p JOIN outbox_event_essential d ON d.key = p.key
		    AND d.type = 'storage.deprovision' AND d.id < p.id WHERE p.type = 'storage.provision'`,
		// a command for each generation
		`SELECT s.id FROM signup_saga s LEFT JOIN outbox_event_essential e ON e.key = s.member_id::text
		    GROUP BY s.id HAVING count(DISTINCT e.headers->>'ce-generation') <> s.generation`,
		`SELECT id FROM signup_saga WHERE state NOT IN ('withdrawing', 'withdraw_needs_attention')`,
		`SELECT id FROM member WHERE username IS NOT NULL`,
		`SELECT 1 FROM session`,
		`SELECT id, member_id, state, generation, error_class, error_fingerprint, retried, created_at, updated_at
		    FROM signup_saga WHERE error_class <> '' EXCEPT TABLE saga_failure`,
		`TABLE saga_failure EXCEPT SELECT id, member_id, state, generation, error_class, error_fingerprint, retried,
		    created_at, updated_at FROM signup_saga WHERE error_class <> ''`,
	} {
		if n := storetest.Count(t, f.pool, "SELECT count(*) FROM ("+bad+") bad"); n != 0 {
			t.Errorf("%d rows of %s", n, bad)
		}
	}
	if n := storetest.Count(t, f.pool,
		"SELECT count(*) FROM saga_event WHERE kind IN ('provisioned', 'rejected', 'retried', "+
			"'gave_up')"); n < sagas/10 {
		t.Errorf("only %d other transitions: no race", n)
	}
	testenv.Eventually(t, 10*time.Second, "misses of the compare-and-swap: without any there was no race", func() bool {
		return storetest.Count(t, f.pool,
			"SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()") > sagas/10
	})
}

// Indexes can be built while a slow writer holds them up, and signups go on meanwhile.
func TestIndexesAreBuiltBesideSignups(t *testing.T) {
	url := storetest.URL(t)
	f := &fixture{pool: storetest.Connect(t, url)}
	f.Store = store.New(f.pool, storetest.Steps, storetest.Secret, func() {})
	storetest.Exec(t, f.pool, "DELETE FROM "+store.Migrations[1].Table+" WHERE version_id >= 5")
	slow, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // ended below
	if _, err := slow.Exec(t.Context(),
		"-- name: testWriter\nLOCK TABLE signup_saga IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	built := make(chan error, 1)
	go func() { built <- service.Migrate(t.Context(), url, slog.New(slog.DiscardHandler), store.Migrations...) }()
	testenv.Eventually(t, 10*time.Second, "the migration to wait for the writer", func() bool {
		return storetest.Count(t, f.pool, `SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '% INDEX %'`) == 1
	})
	m, r, effects := f.begin("mina")
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := f.SignUp(soon, m, r, effects, nil); err != nil {
		t.Errorf("a signup meanwhile: %v", err)
	}
	if err := errors.Join(slow.Rollback(t.Context()), <-built); err != nil {
		t.Error(err)
	}
	n := storetest.Count(t, f.pool, `SELECT count(*) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
WHERE indisvalid AND c.relname IN ('signup_saga_failed', 'signup_saga_withdrawn', 'admin_audit_actor_action')`)
	if n != 3 {
		t.Errorf("%d of 3 indexes are there", n)
	}
}

// A database of the first version, with members in it, is migrated and continues to work.
func TestMigrationOfAPopulatedDatabase(t *testing.T) {
	first, err := os.ReadFile("migrations/00001_member.sql")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	url := testenv.Database(t, "member-v1", func(ctx context.Context, url string) error {
		old := service.MigrationSet{FS: fstest.MapFS{"00001_member.sql": {Data: first}},
			Table: store.Migrations[1].Table}
		return service.Migrate(ctx, url, log, store.Migrations[0], old)
	})
	f := &fixture{pool: storetest.Connect(t, url)}
	f.Store = store.New(f.pool, storetest.Steps, storetest.Secret, func() {})
	// signUp writes what the first version wrote.
	signUp := func(name, state string) string {
		member, id := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
		storetest.Exec(t, f.pool,
			"INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at) VALUES ($1, "+
				"$2, $2, 'x@example.org', 'free', '$argon2id$', now())", member, name)
		storetest.Exec(t, f.pool,
			`INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at,
			    due_at, error_class, created_at, updated_at)
VALUES ($1, $2, 'sgn_' || encode(sha256($3::text::bytea), 'hex'), $4, 1, 1, now(), now(), now(), CASE
    WHEN $4 = 'needs_attention' THEN 'rejected' ELSE '' END, now(), now())`, id, member, name, state)
		storetest.Exec(t, f.pool,
			"INSERT INTO idempotency_key (key, member_id, body_hmac, response, expires_at) VALUES ($1, $2, 'x', $3, "+
				"now() + interval '1 day')", "key-"+name, member, fmt.Appendf(nil, `{"username":%q}`, name))
		return id.String()
	}
	open, ready, stuck := signUp("open", "provisioning"), signUp("ready", "ready"), signUp("stuck", "needs_attention")
	if err := service.Migrate(t.Context(), url, log, store.Migrations...); err != nil {
		t.Fatal(err)
	}
	if noted := storetest.Count(t, f.pool,
		"SELECT count(*) FROM saga_failure WHERE id = $1 AND error_fingerprint = 'rejected'", stuck); noted != 1 {
		t.Errorf("what failed before is noted %d times", noted)
	}
	late := signUp("late", "provisioning") // by a replica of the first version that is still running
	for _, id := range []string{open, late} {
		if got := f.apply(t, id, reply(saga.Provisioned, 1)); got.State != saga.Ready || got.Step != 0 {
			t.Errorf("%+v", got)
		}
	}
	for name, id := range map[string]string{"open": open, "ready": ready, "stuck": stuck, "late": late} {
		r, _, err := f.Get(t.Context(), id)
		if c, bad := f.Credentials(t.Context(), name); err != nil || bad != nil || c.MemberID != r.MemberID {
			t.Errorf("%s: %+v %v %v", name, c, err, bad)
		}
		f.apply(t, id, saga.Event{Kind: saga.Withdraw})
		if got := f.apply(t, id, reply(saga.Deprovisioned, 2)); got.State != saga.Withdrawn {
			t.Errorf("%s: %+v", name, got)
		}
		known, err := f.LookUp(t.Context(), name, "key-"+name, "")
		if err != nil || !known.Taken || known.Response != nil {
			t.Errorf("%s: %+v %v", name, known, err)
		}
	}
}

// The database rejects any change of the saga's row. The member's data is erased nevertheless, once. When the
// row is repaired, an operator's cancel takes the storage back.
func TestErasureOutlivesARefusedSaga(t *testing.T) {
	f := open(t)
	f.Log = slog.New(slog.DiscardHandler)
	r := f.canary(t, "canary")
	f.apply(t, r.ID, reply(saga.Provisioned, 1))
	storetest.Exec(t, f.pool, "ALTER TABLE signup_saga ADD CONSTRAINT damaged CHECK (state = 'ready')")
	for i, who := range []string{"", "ann"} {
		result := f.apply(t, r.ID, saga.Event{Kind: saga.Withdraw, Actor: who, Reason: who})
		if result.Outcome != saga.Recorded || result.Username != nil || result.State != saga.Ready {
			t.Errorf("%+v", result)
		}
		if left := f.remains(t, "canary"); len(left) != 0 {
			t.Errorf("still there: %v", left)
		}
		if n := storetest.Count(t, f.pool, "SELECT count(*) FROM saga_event WHERE kind = 'erased'"); n != i+1 {
			t.Errorf("the timeline has it %d times", n)
		}
	}
	stale := store.Change{SagaID: r.ID, IfVersions: []int64{99}, Event: saga.Event{Kind: saga.Withdraw}}
	if _, err := f.Apply(t.Context(), stale); !errors.Is(err, store.ErrStale) {
		t.Errorf("for another version: %v", err)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM admin_audit"); n != 1 {
		t.Errorf("%d rows of the audit", n)
	}
	storetest.Exec(t, f.pool, "ALTER TABLE signup_saga DROP CONSTRAINT damaged")
	result := f.apply(t, r.ID, saga.Event{Kind: saga.Withdraw, Actor: "ann", Reason: "mended"})
	if result.State != saga.Withdrawing {
		t.Errorf("%+v", result)
	}
}
