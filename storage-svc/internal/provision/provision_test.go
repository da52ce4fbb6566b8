package provision_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	member = "01999e5c-0000-7000-8000-00000000000a"
	saga   = "01999e5c-0000-7000-8000-00000000000b"
)

func text(s string) *string { return &s }

func TestDecide(t *testing.T) {
	row := func(g int64, d provision.Desired, s provision.Status) provision.Storage {
		r := provision.Storage{MemberID: member, SagaID: saga, Generation: g, Desired: d, Status: s, QuotaBytes: 5,
			Attempts: 3, Version: 7, LeaseToken: text("lease")}
		if s == provision.Rejected {
			r.LastErrorClass, r.LastError = text("rejected"), text("no")
		}
		return r
	}
	present, absent := provision.Present, provision.Absent
	const created1, refused1, removed2 = "storage.provisioned 1", "storage.rejected 1", "storage.deprovisioned 2"
	const keep = -1 // the generation stays, nothing changes
	for name, c := range map[string]struct {
		row     provision.Storage
		gen     int64
		desired provision.Desired
		wantGen int64
		reply   string // "type generation"
	}{
		"duplicate while pending": {row(2, present, provision.Pending), 2, present, keep, ""},
		"older while pending":     {row(2, present, provision.Pending), 1, present, keep, ""},
		"duplicate when ready": {row(2, present, provision.Ready), 2, present, keep,
			"storage.provisioned 2"},
		"older when ready":         {row(2, present, provision.Ready), 1, present, keep, created1},
		"older removal when ready": {row(2, present, provision.Ready), 1, absent, 1, ""},
		"duplicate when rejected": {row(2, present, provision.Rejected), 2, present, keep,
			"storage.rejected 2"},
		"retry after rejection": {row(1, present, provision.Rejected), 2, present, 2, ""},
		"newer while pending":   {row(1, present, provision.Pending), 3, present, 3, ""},
		"newer when ready":      {row(1, present, provision.Ready), 2, present, 2, ""},
		"removal":               {row(1, present, provision.Ready), 2, absent, 2, ""},
		"removal while pending": {row(1, present, provision.Pending), 2, absent, 2, ""},
		"duplicate removal": {row(2, absent, provision.Removed), 2, absent, keep,
			"storage.deprovisioned 2"},
		"removal again":                   {row(2, absent, provision.Removed), 3, absent, 3, ""},
		"overtaken creation when removed": {row(2, absent, provision.Removed), 1, present, keep, refused1},
		"creation after removal": {row(2, absent, provision.Removed), 3, present, keep,
			"storage.rejected 3"},
		"creation while removal is pending": {row(2, absent, provision.Pending), 3, present, keep,
			"storage.rejected 3"},
		"removal again after its rejection": {row(2, absent, provision.Rejected), 3, absent, 3, ""},
		"creation after a rejected removal": {row(2, absent, provision.Rejected), 3, present, keep,
			"storage.rejected 3"},
		"overtaken creation, removal queued": {row(2, absent, provision.Pending), 1, present, keep, ""},
		"creation below a forged one":        {row(1e6, present, provision.Ready), 1, present, keep, created1},
		"retry below a forged one":           {row(1e6, present, provision.Rejected), 2, present, 2, ""},
		"removal below a forged creation":    {row(1e6, present, provision.Pending), 2, absent, 2, ""},
		"removal below a forged removal":     {row(1e6, absent, provision.Removed), 2, absent, keep, removed2},
		"removal below a rejected one":       {row(1e6, absent, provision.Rejected), 2, absent, 2, ""},
		"removal at the last generation":     {row(1e6, present, provision.Ready), 1e6, absent, 1e6, ""},
	} {
		t.Run(name, func(t *testing.T) {
			next, changed, reply := provision.Decide(c.row,
				provision.Command{MemberID: member, SagaID: saga, Generation: c.gen, Desired: c.desired, QuotaBytes: 9})
			got := ""
			if reply != nil {
				got = fmt.Sprintf("%s %d", reply.Type, reply.Data.Generation)
				if (reply.Type == contract.StorageRejected) != (reply.Data.Error != nil) {
					t.Errorf("error in reply: %+v", reply.Data)
				}
			}
			if got != c.reply {
				t.Errorf("reply %q, want %q", got, c.reply)
			}
			if changed != (c.wantGen != keep) {
				t.Fatalf("changed = %v", changed)
			}
			if !changed {
				if next != c.row {
					t.Errorf("row changed to %+v", next)
				}
				return
			}
			if next.Generation != c.wantGen || next.Desired != c.desired || next.Status != provision.Pending ||
				next.Version != 8 ||
				next.Attempts != 0 || next.LastError != nil || next.LeaseToken != c.row.LeaseToken {
				t.Errorf("next row %+v", next)
			}
		})
	}
}

var policy = provision.Policy{Base: 100 * time.Millisecond, Cap: 10 * time.Second, OutageCap: time.Second}

func TestAfterAnAttempt(t *testing.T) {
	row := provision.Storage{MemberID: member, SagaID: saga, Generation: 1, Desired: provision.Present,
		Status: provision.Pending, Attempts: 4, OutageAttempts: 6, Version: 1}
	gone := row
	gone.Desired = provision.Absent
	failure := func(c provision.Class, after time.Duration) error {
		return fmt.Errorf("wrapped: %w", &provision.Failure{Class: c, RetryAfter: after, Err: errors.New("x")})
	}
	for name, c := range map[string]struct {
		row              provision.Storage
		err              error
		status           provision.Status
		attempts, outage int
		class            string
		reply            contract.Type
		minDelay         time.Duration
	}{
		"created":  {row, nil, provision.Ready, 5, 6, "", contract.StorageProvisioned, 0},
		"removed":  {gone, nil, provision.Removed, 5, 6, "", contract.StorageDeprovisioned, 0},
		"unknown":  {row, errors.New("x"), provision.Pending, 5, 6, "transient", "", 0},
		"time-out": {row, context.DeadlineExceeded, provision.Pending, 5, 6, "transient", "", 0},
		"outage":   {row, failure(provision.ClassOutage, 0), provision.Pending, 4, 7, "outage", "", 0},
		"throttled": {row, failure(provision.ClassThrottled, time.Minute), provision.Pending, 4, 7, "throttled", "",
			time.Minute},
		"rejected": {row, failure(provision.ClassRejected, 0), provision.Rejected, 5, 6, "rejected",
			contract.StorageRejected, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := policy.After(c.row, c.err)
			class, reply := "", contract.Type("")
			if r.Next.LastErrorClass != nil {
				class = *r.Next.LastErrorClass
			}
			if r.Reply != nil {
				reply = r.Reply.Type
			}
			if r.Next.Status != c.status || r.Next.Attempts != c.attempts || r.Next.OutageAttempts != c.outage ||
				class != c.class || reply != c.reply || r.Delay < c.minDelay {
				t.Errorf("got %+v, reply %s", r, reply)
			}
		})
	}
}

// A long outage is reported only a few times, keeps to its back-off and uses up no attempts.
func TestOutageIsReportedSparingly(t *testing.T) {
	row := provision.Storage{MemberID: member, SagaID: saga, Generation: 1, Desired: provision.Present,
		Status: provision.Pending}
	told := 0
	for range 1000 {
		r := policy.After(row, &provision.Failure{Class: provision.ClassOutage, Err: errors.New("x")})
		if row = r.Next; row.Status != provision.Pending || row.Attempts != 0 || r.Delay > policy.OutageCap {
			t.Fatalf("after %d attempts: %+v", row.OutageAttempts, r)
		}
		if r.Reply != nil {
			told++
		}
	}
	if told != 10 {
		t.Errorf("told %d times, want 10 (1, 2, 4, … 512)", told)
	}
}

type inbox struct {
	commands []provision.Command
	dead     []provision.DeadLetter
	refuse   string // member whose command makes the transaction fail
	calls    int
}

var errDefect = errors.New("defective")

func (i *inbox) Apply(_ context.Context, c []provision.Command, d []provision.DeadLetter) error {
	i.calls++
	for _, command := range c {
		if command.MemberID == i.refuse {
			return errDefect
		}
	}
	i.commands, i.dead = append(i.commands, c...), append(i.dead, d...)
	return nil
}

func (i *inbox) Requeue(context.Context, string, func(service.Message) (provision.Command, error)) error {
	return nil
}

func (i *inbox) Defective(err error) bool { return errors.Is(err, errDefect) }

func golden(t *testing.T, typ contract.Type) service.Message {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "contract", "testdata", "v1", string(typ)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return service.Message{Subject: "signup.essential." + string(typ),
		Headers: map[string][]string{"content-type": {contract.StructuredContentType}}, Body: b}
}

// binary makes a message as the outbox sends it.
func binary(memberID, sagaID, generation, body string) service.Message {
	return service.Message{Subject: "signup.essential.storage.provision", Body: []byte(body),
		Headers: map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"e1"}, "ce-source": {"/member-svc"}, "ce-type": {"storage.provision"},
			"ce-subject": {memberID}, "ce-sagaid": {sagaID}, "ce-generation": {generation},
		}}
}

func handler(i *inbox) *provision.Handler {
	return &provision.Handler{Inbox: i, Wake: func() {}, Log: slog.New(slog.DiscardHandler)}
}

func TestGoldenCommands(t *testing.T) {
	var in inbox
	if err := handler(&in).Handle(t.Context(),
		[]service.Message{golden(t, contract.StorageProvision), golden(t, contract.StorageDeprovision)}); err != nil {
		t.Fatal(err)
	}
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	want := []provision.Command{
		{MemberID: member, SagaID: saga, Generation: 1, Desired: provision.Present, QuotaBytes: 5368709120,
			TraceParent: parent},
		{MemberID: member, SagaID: saga, Generation: 2, Desired: provision.Absent, TraceParent: parent},
	}
	if len(in.commands) != 2 || in.commands[0] != want[0] || in.commands[1] != want[1] || len(in.dead) != 0 {
		t.Errorf("commands %+v, dead %+v", in.commands, in.dead)
	}
}

func TestPoisonIsAnsweredAndNeighboursPass(t *testing.T) {
	good := golden(t, contract.StorageProvision)
	elsewhere := binary(member, saga, "3", `{"member_id":"`+member+`","saga_id":"`+saga+`","generation":3}`)
	elsewhere.Subject = "signup.essential.storage.deprovision"
	for name, c := range map[string]struct {
		message  service.Message
		answered bool
	}{
		"no JSON":    {binary(member, saga, "3", "{"), true},
		"no member":  {binary(member, saga, "3", `{"saga_id":"`+saga+`","generation":3}`), true},
		"not a UUID": {binary(member, saga, "3", `{"member_id":"x","saga_id":"y","generation":3}`), true},
		"bad bytes":  {binary(member, saga, "3", "\x00\xff"), true},
		"bad quota": {binary(member, saga, "3", `{"member_id":"`+member+`","saga_id":"`+saga+
			`","generation":3,"quota_bytes":-1}`), true},
		"no generation":  {binary(member, saga, "", "{"), false},
		"no saga":        {binary(member, "", "3", "{"), false},
		"saga no UUID":   {binary(member, "x\x00", "3", "{"), false},
		"no headers":     {service.Message{Subject: "signup.essential.storage.provision", Body: []byte("x")}, false},
		"not a command":  {golden(t, contract.StorageProvisioned), false},
		"other subject":  {elsewhere, false},
		"a huge number":  {binary(member, saga, "9223372036854775807", `{}`), false},
		"bad generation": {binary(member, saga, "three", `{}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			var in inbox
			if err := handler(&in).Handle(t.Context(), []service.Message{c.message, good}); err != nil {
				t.Fatal(err)
			}
			if len(in.commands) != 1 || len(in.dead) != 1 || in.calls != 1 {
				t.Fatalf("%d commands, %d dead letters in %d transactions", len(in.commands), len(in.dead), in.calls)
			}
			d := in.dead[0]
			if (d.Reply != nil) != c.answered || d.Reason == "" || d.Fingerprint == "" ||
				strings.ContainsRune(d.Reason, 0) {
				t.Errorf("dead letter %+v", d)
			}
			if d.Reply != nil && (d.Reply.Type != contract.StorageRejected || d.Reply.Data.Error.Class != "poison" ||
				d.Reply.Data.Validate() != nil) {
				t.Errorf("reply %+v", d.Reply)
			}
		})
	}
}

func TestDefectFoundByTheDatabaseIsPutAside(t *testing.T) {
	const other = "01999e5c-0000-7000-8000-0000000000ff"
	in := inbox{refuse: other}
	bad := binary(other, saga, "1", `{"member_id":"`+other+`","saga_id":"`+saga+`","generation":1}`)
	if err := handler(&in).Handle(t.Context(), []service.Message{golden(t, contract.StorageProvision), bad,
		golden(t, contract.StorageDeprovision)}); err != nil {
		t.Fatal(err)
	}
	if len(in.commands) != 2 || len(in.dead) != 1 || in.dead[0].Reply.Data.MemberID != other {
		t.Errorf("commands %+v, dead %+v", in.commands, in.dead)
	}
}

func TestFingerprintsGroupErrors(t *testing.T) {
	fingerprint := func(message string) string {
		s := provision.Storage{LastErrorClass: text("transient"), LastError: text(message)}
		return s.Error().Fingerprint
	}
	if a, b := fingerprint("dial 10.0.0.1:443: connection reset"),
		fingerprint("dial 10.0.0.2:443: Connection reset"); a != b || a != "transient:dial-connection-reset" {
		t.Errorf("%q, %q", a, b)
	}
	if fingerprint("connection reset") == fingerprint("no space left") {
		t.Error("different errors, one fingerprint")
	}
}
