package mail_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/mail"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

type fixture struct {
	t       *testing.T
	pool    *pgxpool.Pool
	store   *store.Store
	cfg     mail.Config
	mailer  *mail.Mailer
	log     *bytes.Buffer
	counted map[string]int
}

func open(t *testing.T, addr string) *fixture {
	t.Helper()
	return configured(t, mail.Server{Addr: addr, TLS: mail.TLSOpportunistic})
}

func configured(t *testing.T, server mail.Server) *fixture {
	t.Helper()
	f := &fixture{t: t, pool: storetest.Open(t), log: new(bytes.Buffer), counted: map[string]int{}}
	f.cfg = mail.Config{
		Server: server, From: "welcome@sender.example", Secret: storetest.Secret,
		MaxAttempts: 20, MaxAge: 24 * time.Hour,
		Log: slog.New(slog.NewTextHandler(f.log, nil)), Observe: func(result string, n int) { f.counted[result] += n },
	}
	f.store = store.New(f.pool, storetest.Steps, storetest.Secret, nil)
	f.mailer = f.another()
	return f
}

// another returns the mailer of another replica.
func (f *fixture) another() *mail.Mailer {
	f.t.Helper()
	m, err := mail.New(f.cfg, f.store)
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

func (f *fixture) member(name string, email any) string {
	f.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	storetest.Exec(f.t, f.pool, `INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at)
VALUES ($1, $2, $2, $3, 'free', 'x', now())`, id, name, email)
	return id
}

// letter signs a member up and queues their mail.
func (f *fixture) letter(name, email string) string {
	f.t.Helper()
	id := f.member(name, email)
	f.queue(signedUp(id))
	return id
}

func signedUp(memberID string) service.Message {
	return service.Message{
		Subject: "signup.nonessential.member.signed-up",
		Headers: map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/member-svc"},
			"ce-type": {string(contract.MemberSignedUp)},
		},
		Body: fmt.Appendf(nil, `{"member_id":%q,"saga_id":"01999e5c-0000-7000-8000-00000000000b"}`, memberID),
	}
}

func (f *fixture) queue(messages ...service.Message) {
	f.t.Helper()
	if err := f.mailer.Queue(f.t.Context(), messages); err != nil {
		f.t.Fatal(err)
	}
}

// work runs one pass. The error says why the mail server cannot be used.
func (f *fixture) work() error {
	f.t.Helper()
	_, err := f.mailer.Work(f.t.Context())
	if errors.Is(err, service.ErrIdle) {
		return nil
	}
	return err
}

// elapse lets time pass, in the database.
func (f *fixture) elapse(d time.Duration) {
	f.t.Helper()
	f.mailer.Quiet()
	storetest.Exec(f.t, f.pool, `UPDATE mail
SET next_attempt_at = next_attempt_at - $1::interval, created_at = created_at - $1::interval`, d)
	storetest.Exec(f.t, f.pool, "UPDATE mailed_address SET used_at = used_at - $1::interval", d)
}

// untilDue lets time pass until the next mail is due, and returns how long that took.
func (f *fixture) untilDue() time.Duration {
	f.t.Helper()
	var seconds float64
	err := f.pool.QueryRow(f.t.Context(), `-- name: testUntilDue
SELECT coalesce(greatest(extract(epoch FROM min(next_attempt_at) - now()), 0), 0)::float8
FROM mail WHERE state = 'queued'`).Scan(&seconds)
	if err != nil {
		f.t.Fatal(err)
	}
	d := time.Duration(seconds*float64(time.Second)) + time.Millisecond
	f.elapse(d)
	return d
}

// erase does to members what a withdrawal does.
const erase = `UPDATE member
SET username = NULL, username_key = NULL, name_mac = sha256(id::text::bytea), email = NULL, password_hash = ''`

type row struct {
	State            string
	Attempts, Copies int
	Wait             time.Duration
	Error            string
}

// row returns the only mail.
func (f *fixture) row() (r row) {
	f.t.Helper()
	var seconds float64
	err := f.pool.QueryRow(f.t.Context(), `-- name: testMail
SELECT state, attempts, copies, extract(epoch FROM next_attempt_at - now())::float8, error FROM mail`).
		Scan(&r.State, &r.Attempts, &r.Copies, &seconds, &r.Error)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Wait = time.Duration(seconds * float64(time.Second))
	return r
}

func (f *fixture) count(condition string) int {
	f.t.Helper()
	return storetest.Count(f.t, f.pool, "SELECT count(*) FROM mail WHERE "+condition)
}

func TestOneMailPerMemberAlthoughTheServerWasAway(t *testing.T) {
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := reserved.Addr().String()
	_ = reserved.Close()
	f := open(t, addr)
	mina := f.member("mina", "mina@example.org")
	silent := f.member("silent", nil)
	f.queue(signedUp(mina), signedUp(mina), signedUp(silent), signedUp(uuid.Must(uuid.NewV7()).String()),
		signedUp("no uuid"), service.Message{Body: []byte("{")})
	f.queue(signedUp(mina))
	for range 30 { // more often than MaxAttempts: an outage is not an attempt
		err := f.work()
		if err == nil || !strings.Contains(err.Error(), "connection refused; check SMTP_ADDR") {
			t.Fatalf("the mail server is away, but: %v", err)
		}
		r := f.row()
		if r.Wait > 0 || r.Attempts > 0 || r.Copies > 0 || !strings.Contains(r.Error, "connection refused") {
			t.Fatalf("the mail pays for the outage: %+v", r)
		}
	}
	s := newServer(t, addr, nil)
	for range 2 {
		if err := f.work(); err != nil {
			t.Fatal(err)
		}
	}
	if mails := s.all(); len(mails) != 1 || !strings.HasPrefix(mails[0], "RCPT TO:<mina@example.org>\n") {
		t.Fatalf("%d mails, want 1: %q", len(mails), mails)
	}
	if f.counted["sent"] != 1 || f.counted["dropped"] != 0 || f.row().State != "sent" || f.row().Error != "" {
		t.Errorf("counted %v, %+v", f.counted, f.row())
	}
}

// The only part of a mail that strangers can choose is the recipient's address.
func TestNothingOfAStrangerIsInTheMail(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	names := []string{
		"http://evil.example/2423", "www.evil.example", "mina\r\nBcc: nora@example.org", "\u202eevil", "<b>evil</b>",
		"mina",
	}
	for i, name := range names {
		f.letter(name, fmt.Sprintf("m%d@example.org", i))
	}
	if err := f.work(); err != nil {
		t.Fatal(err)
	}
	mails := s.all()
	if len(mails) != len(names) {
		t.Fatalf("%d mails", len(mails))
	}
	for _, m := range mails {
		for _, word := range []string{"evil", "mina", "nora", "://"} {
			if strings.Contains(m, word) {
				t.Errorf("a stranger's words in\n%s", m)
			}
		}
		for _, want := range []string{
			"\nAuto-Submitted: auto-generated\r\n", "\r\nDate: ", "\r\nMIME-Version: 1.0\r\n", "\r\nMessage-ID: <",
			"@sender.example>\r\n", "\r\nFrom: <welcome@sender.example>\r\n", "\r\nSubject: Welcome\r\n",
			"\r\nContent-Transfer-Encoding: quoted-printable\r\n", "\r\nContent-Type: text/plain; charset=UTF-8\r\n",
			"Welcome!",
		} {
			if !strings.Contains(m, want) {
				t.Errorf("no %q in\n%s", want, m)
			}
		}
		if strings.Contains(m, "User-Agent") || strings.ContainsFunc(m, func(r rune) bool { return r > '~' }) {
			t.Errorf("more than there should be in\n%s", m)
		}
	}
}

// However many members share one address, in whatever spelling, it gets one welcome mail a day.
func TestOneMailPerAddressAndDay(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	f.cfg.Observe = func(string, int) {}
	for i := range 50 {
		spellings := []string{"mina@example.org", "MINA@Example.ORG", "mina+tag@example.org", "Mina+x@example.org"}
		f.letter(fmt.Sprintf("m%d", i), spellings[i%4])
	}
	var replicas sync.WaitGroup
	for range 4 {
		m := f.another()
		replicas.Go(func() {
			for {
				if _, err := m.Work(t.Context()); errors.Is(err, service.ErrIdle) {
					return
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	replicas.Wait()
	if n := len(s.all()); n != 1 {
		t.Errorf("%d mails to one address, want 1", n)
	}
	if n := f.count("state = 'dropped' AND error = 'the address had a welcome mail within a day'"); n != 49 {
		t.Errorf("%d dropped, want 49", n)
	}
	addresses := func() int {
		return storetest.Count(t, f.pool, "SELECT count(*) FROM mailed_address WHERE length(mac) = 32")
	}
	again := func(name string, want int) {
		t.Helper()
		f.letter(name, "mina@example.org")
		if err := f.work(); err != nil || len(s.all()) != want || addresses() != 1 {
			t.Errorf("%s: %d mails, want %d, %d addresses: %v", name, len(s.all()), want, addresses(), err)
		}
	}
	// A withdrawal removes the address, but not the record that a mail was sent to it.
	storetest.Exec(t, f.pool, erase)
	again("after the others left", 1)
	f.elapse(23 * time.Hour)
	if _, err := f.store.ForgetMailedAddresses(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	again("the same day", 1)
	f.elapse(2 * time.Hour)
	again("the next day", 2)
	f.elapse(25 * time.Hour)
	if _, err := f.store.ForgetMailedAddresses(t.Context(), 10); err != nil || addresses() != 0 {
		t.Errorf("%d addresses are kept for more than a day: %v", addresses(), err)
	}
}

func TestOldMailIsDropped(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	f.letter("mina", "mina@example.org")
	storetest.Exec(t, f.pool, "UPDATE mail SET created_at = now() - interval '25 hours', error = 'RCPT: 450 later'")
	if err := f.work(); err != nil || f.counted["dropped"] != 1 || s.greetings() != 0 {
		t.Errorf("%v, %v, %d conversations", err, f.counted, s.greetings())
	}
	if r := f.row(); r.Error != "RCPT: 450 later" {
		t.Errorf("the reason is lost: %+v", r)
	}
}

// A member who has left gets no mail, whether they left before it was queued, while it waited, or after it was
// claimed together with another one that was sent first.
func TestNoMailAfterLeaving(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	leave := func(id string) {
		_, err := f.pool.Exec(context.WithoutCancel(t.Context()), "-- name: testLeave\n"+erase+" WHERE id = $1", id)
		if err != nil {
			t.Error(err)
		}
	}
	var ids []string
	for _, name := range []string{"early", "waiting", "first", "second"} {
		ids = append(ids, f.member(name, name+"@example.org"))
	}
	s.answer(func(command string) string { // during the conversation about one letter, the other member leaves
		switch {
		case strings.HasPrefix(command, "RCPT TO:<first"):
			leave(ids[3])
		case strings.HasPrefix(command, "RCPT TO:<second"):
			leave(ids[2])
		}
		return ""
	})
	leave(ids[0])
	for _, id := range ids {
		f.queue(signedUp(id))
	}
	if n := f.count("true"); n != 3 {
		t.Errorf("%d mails queued, want 3", n)
	}
	leave(ids[1])
	if err := f.work(); err != nil {
		t.Fatal(err)
	}
	if mails := s.all(); len(mails) != 1 || f.counted["sent"] != 1 || f.counted["dropped"] != 2 {
		t.Errorf("%d mails, counted %v", len(mails), f.counted)
	}
}

// A mail claimed by a process that died stays claimed for the lease only.
func TestLease(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	f.letter("mina", "mina@example.org")
	storetest.Exec(t, f.pool, "UPDATE mail SET next_attempt_at = now() + interval '5 minutes'")
	if err := f.work(); err != nil || len(s.all()) != 0 {
		t.Errorf("a leased mail was sent: %v", err)
	}
	f.elapse(5 * time.Minute)
	if err := f.work(); err != nil || len(s.all()) != 1 {
		t.Errorf("after the lease: %d mails, %v", len(s.all()), err)
	}
}

func TestGoldenMessage(t *testing.T) {
	raw, err := os.ReadFile("../../../../contract/testdata/v1/member.signed-up.json")
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, "127.0.0.1:1")
	storetest.Exec(t, f.pool, `INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at)
VALUES ('01999e5c-0000-7000-8000-00000000000a', 'mina', 'mina', 'm@example.org', 'free', 'x', now())`)
	f.queue(service.Message{
		Subject: "signup.nonessential.member.signed-up",
		Headers: map[string][]string{"content-type": {contract.StructuredContentType}}, Body: raw,
	})
	if n := f.count("true"); n != 1 {
		t.Errorf("%d mails queued", n)
	}
}

// While one replica sends a mail, another one leaves it alone, and for half an hour if the first one dies. The
// copy that may have arrived counts.
func TestLeasedMailIsExclusive(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	other := f.another()
	var looks atomic.Int64
	s.answer(func(command string) string {
		if strings.HasPrefix(command, "RCPT") && looks.Add(1) == 1 {
			if _, err := other.Work(t.Context()); !errors.Is(err, service.ErrIdle) {
				t.Errorf("the other replica: %v", err)
			}
			if r := f.row(); r.Copies != 1 || r.Wait < 29*time.Minute {
				t.Errorf("should this process die now, %+v is left", r)
			}
		}
		return ""
	})
	f.letter("mina", "mina@example.org")
	if err := f.work(); err != nil || len(s.all()) != 1 || looks.Load() != 1 {
		t.Errorf("%d mails, %v", len(s.all()), err)
	}
}

// A letter whose claim expired while others were sent is left to the replica that has claimed it since.
func TestLostClaim(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	f.letter("first", "first@example.org")
	f.letter("second", "second@example.org")
	var once sync.Once
	s.answer(func(command string) string {
		if strings.HasPrefix(command, "RCPT") {
			once.Do(func() {
				_, err := f.pool.Exec(context.WithoutCancel(t.Context()), `-- name: testClaim
UPDATE mail SET next_attempt_at = now() + interval '1 hour' WHERE copies = 0`)
				if err != nil {
					t.Error(err)
				}
			})
		}
		return ""
	})
	theirs := "state = 'queued' AND next_attempt_at > now() + interval '59 minutes'"
	if err := f.work(); err != nil || len(s.all()) != 1 || f.count(theirs) != 1 {
		t.Errorf("%d mails, %v", len(s.all()), err)
	}
}
