package welcome_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/member-svc/internal/welcome"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// mailbox is a mail server that refuses what refuse says.
type mailbox struct {
	mu     sync.Mutex
	mails  []string // raw
	refuse func(to string) error
	breaks bool // the connection, in the middle of the conversation
}

func (m *mailbox) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &session{m: m, conn: c.Conn()}, nil
}

type session struct {
	m    *mailbox
	conn net.Conn
	to   string
}

func (s *session) Mail(string, *smtp.MailOptions) error { return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	if s.m.breaks {
		return s.conn.Close()
	}
	if s.m.refuse != nil {
		return s.m.refuse(to)
	}
	return nil
}
func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.mails = append(s.m.mails, s.to+"\n"+string(raw))
	return err
}
func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func (m *mailbox) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.mails...)
}

func (m *mailbox) listen(t *testing.T, addr string) string {
	t.Helper()
	server := smtp.NewServer(m)
	server.Domain = "localhost"
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return l.Addr().String()
}

type fixture struct {
	pool    *pgxpool.Pool
	mailer  *welcome.Mailer
	counted map[string]int
}

func open(t *testing.T, addr string) *fixture {
	t.Helper()
	f := &fixture{pool: storetest.Open(t), counted: map[string]int{}}
	var err error
	f.mailer, err = welcome.New(welcome.Config{
		Addr: addr, From: "welcome@example.org", MaxAttempts: 3, MaxAge: time.Hour, Log: slog.New(slog.DiscardHandler),
		Observe: func(result string, n int) { f.counted[result] += n },
	}, f.pool)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) member(t *testing.T, name string, email any) string {
	t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	storetest.Exec(t, f.pool, "INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at) VALUES ($1, $2, $2, $3, 'free', 'x', now())", id, name, email)
	return id
}

func signedUp(memberID string) service.Message {
	return service.Message{
		Subject: "signup.nonessential.member.signed-up",
		Headers: map[string][]string{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/member-svc"}, "ce-type": {string(contract.MemberSignedUp)}},
		Body:    fmt.Appendf(nil, `{"member_id":%q,"saga_id":"01999e5c-0000-7000-8000-00000000000b"}`, memberID),
	}
}

func (f *fixture) queue(t *testing.T, messages ...service.Message) {
	t.Helper()
	if err := f.mailer.Queue(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) due(t *testing.T) {
	t.Helper()
	storetest.Exec(t, f.pool, "UPDATE mail SET next_attempt_at = now()")
}

func TestOneMailPerMemberAlthoughTheServerWasAway(t *testing.T) {
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := reserved.Addr().String()
	_ = reserved.Close()
	f := open(t, addr)
	mina := f.member(t, "mina", "mina@example.org")
	silent := f.member(t, "silent", nil)
	f.queue(t, signedUp(mina), signedUp(mina), signedUp(silent), signedUp(uuid.Must(uuid.NewV7()).String()), signedUp("no uuid"), service.Message{Body: []byte("{")})
	f.queue(t, signedUp(mina))
	for range 5 { // more often than MaxAttempts: an outage is no attempt
		if _, err := f.mailer.Work(t.Context()); err == nil {
			t.Fatal("the mail server is away, but nothing failed")
		}
		if n := storetest.Count(t, f.pool, "SELECT count(*) FROM mail WHERE next_attempt_at < now() + interval '5 seconds' AND attempts = 0"); n != 1 {
			t.Fatalf("%d mails wait for at most 5 s, want 1", n)
		}
		f.due(t)
	}
	box := &mailbox{}
	box.listen(t, addr)
	for range 2 {
		if _, err := f.mailer.Work(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mails := box.all()
	if len(mails) != 1 {
		t.Fatalf("%d mails, want 1", len(mails))
	}
	for _, want := range []string{"mina@example.org\n", "Message-ID: <welcome." + mina + "@signup-saga>", "Hello mina", "text/plain"} {
		if !strings.Contains(mails[0], want) {
			t.Errorf("no %q in\n%s", want, mails[0])
		}
	}
	if f.counted["sent"] != 1 || f.counted["dropped"] != 0 {
		t.Errorf("counted %v", f.counted)
	}
}

func TestRefusals(t *testing.T) {
	box := &mailbox{refuse: func(to string) error {
		if strings.HasPrefix(to, "never") {
			return &smtp.SMTPError{Code: 550, Message: "no such mailbox " + to}
		}
		return &smtp.SMTPError{Code: 450, Message: "try later " + to}
	}}
	f := open(t, box.listen(t, "127.0.0.1:0"))
	f.queue(t, signedUp(f.member(t, "never", "never@example.org")), signedUp(f.member(t, "later", "later@example.org")))
	for range 3 {
		if _, err := f.mailer.Work(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.due(t)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM mail WHERE state = 'dropped' AND error IN ('refused with code 550', 'refused with code 450')"); n != 2 {
		t.Errorf("%d dropped, want 2: one at once, one after its attempts; without the address in the reason", n)
	}
	if f.counted["dropped"] != 2 || f.counted["delayed"] != 2 {
		t.Errorf("counted %v", f.counted)
	}
}

func TestBrokenConversationIsNoAttempt(t *testing.T) {
	f := open(t, (&mailbox{breaks: true}).listen(t, "127.0.0.1:0"))
	f.queue(t, signedUp(f.member(t, "mina", "mina@example.org")), signedUp(f.member(t, "nora", "nora@example.org")))
	for range 4 {
		if _, err := f.mailer.Work(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.due(t)
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM mail WHERE state = 'queued' AND attempts = 0"); n != 2 {
		t.Errorf("%d mails wait, want 2", n)
	}
}

func TestOldMailIsDropped(t *testing.T) {
	box := &mailbox{}
	f := open(t, box.listen(t, "127.0.0.1:0"))
	f.queue(t, signedUp(f.member(t, "mina", "mina@example.org")))
	storetest.Exec(t, f.pool, "UPDATE mail SET created_at = now() - interval '2 hours'")
	if _, err := f.mailer.Work(t.Context()); err != nil || f.counted["dropped"] != 1 || len(box.all()) != 0 {
		t.Errorf("%v, %v, %d mails", err, f.counted, len(box.all()))
	}
}

// Whoever has left gets no mail: not if he left before it was queued, nor while it
// waited, nor after it was claimed together with another that was sent before it.
func TestNoMailAfterLeaving(t *testing.T) {
	box := &mailbox{}
	f := open(t, box.listen(t, "127.0.0.1:0"))
	leave := func(id string) error { // what a withdrawal does to a member
		_, err := f.pool.Exec(t.Context(), "-- name: testLeave\nUPDATE member SET username = NULL, username_key = NULL, name_mac = sha256(id::text::bytea), email = NULL, password_hash = '' WHERE id = $1", id)
		return err
	}
	var ids []string
	for _, name := range []string{"early", "waiting", "first", "second"} {
		ids = append(ids, f.member(t, name, name+"@example.org"))
	}
	box.refuse = func(to string) error { // in the middle of the conversation about one, the other leaves
		if strings.HasPrefix(to, "first") {
			return leave(ids[3])
		}
		return leave(ids[2])
	}
	if err := leave(ids[0]); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		f.queue(t, signedUp(id))
	}
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM mail"); n != 3 {
		t.Errorf("%d mails queued, want 3", n)
	}
	if err := leave(ids[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := f.mailer.Work(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mails := box.all(); len(mails) != 1 || f.counted["sent"] != 1 || f.counted["dropped"] != 2 {
		t.Errorf("%d mails, counted %v", len(mails), f.counted)
	}
}

// Whoever claimed a mail and died keeps it for the time of the lease only.
func TestLease(t *testing.T) {
	box := &mailbox{}
	f := open(t, box.listen(t, "127.0.0.1:0"))
	f.queue(t, signedUp(f.member(t, "mina", "mina@example.org")))
	storetest.Exec(t, f.pool, "UPDATE mail SET next_attempt_at = now() + interval '5 minutes'")
	if more, err := f.mailer.Work(t.Context()); more || err != nil || len(box.all()) != 0 {
		t.Errorf("a leased mail was sent: %v", err)
	}
	f.due(t)
	if _, err := f.mailer.Work(t.Context()); err != nil || len(box.all()) != 1 {
		t.Errorf("after the lease: %d mails, %v", len(box.all()), err)
	}
}

func TestGoldenMessage(t *testing.T) {
	raw, err := os.ReadFile("../../../contract/testdata/v1/member.signed-up.json")
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, "127.0.0.1:1")
	storetest.Exec(t, f.pool, "INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at) VALUES ('01999e5c-0000-7000-8000-00000000000a', 'mina', 'mina', 'm@example.org', 'free', 'x', now())")
	f.queue(t, service.Message{
		Subject: "signup.nonessential.member.signed-up",
		Headers: map[string][]string{"content-type": {contract.StructuredContentType}}, Body: raw,
	})
	if n := storetest.Count(t, f.pool, "SELECT count(*) FROM mail"); n != 1 {
		t.Errorf("%d mails queued", n)
	}
}

// While one replica talks to the mail server about a mail, another one leaves it alone.
func TestMailInHandIsNobodyElses(t *testing.T) {
	box := &mailbox{}
	addr := box.listen(t, "127.0.0.1:0")
	f := open(t, addr)
	other, err := welcome.New(welcome.Config{
		Addr: addr, From: "welcome@example.org", MaxAttempts: 3, MaxAge: time.Hour, Log: slog.New(slog.DiscardHandler),
		Observe: func(string, int) {},
	}, f.pool)
	if err != nil {
		t.Fatal(err)
	}
	var looks atomic.Int64
	box.refuse = func(string) error {
		if looks.Add(1) == 1 {
			if _, err := other.Work(t.Context()); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	f.queue(t, signedUp(f.member(t, "mina", "mina@example.org")))
	if _, err := f.mailer.Work(t.Context()); err != nil || len(box.all()) != 1 || looks.Load() == 0 {
		t.Errorf("%d mails, %v", len(box.all()), err)
	}
}
