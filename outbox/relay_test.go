package outbox

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
)

func TestEventsArriveAsCloudEventsInOrder(t *testing.T) {
	b := newBench(t)
	r, _ := b.start(Hooks{})
	var want []string
	if err := InTx(t.Context(), b.pool, r.Wake, func(tx pgx.Tx) error {
		want = b.append(tx, event("k", 1), event("k", 2), event("k", 3))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b.published()
	if got := b.stored(); !slices.Equal(got, want) {
		t.Fatalf("stream holds %v, want %v", got, want)
	}
	js, _ := jetstream.New(b.connect())
	s, err := js.Stream(t.Context(), "MEMBER_ESSENTIAL")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"ce-specversion": "1.0", "ce-id": want[0], "ce-type": "storage.provision",
		"ce-source":  "/test",
		"ce-subject": "k", "ce-sagaid": "s-k", "content-type": "application/json"} {
		if got := m.Header.Get(k); got != v {
			t.Errorf("header %s = %q, want %q", k, got, v)
		}
	}
	if string(m.Data) != `{"i":1}` || m.Subject != "signup.essential.storage.provision" {
		t.Errorf("message %s %s", m.Subject, m.Data)
	}
}

func TestRolledBackTransactionLeavesNoTrace(t *testing.T) {
	b := newBench(t)
	b.start(Hooks{})
	want := b.commit(1)
	woken := false
	err := InTx(t.Context(), b.pool, func() { woken = true }, func(tx pgx.Tx) error {
		b.append(tx, event("k", 1))
		return errors.New("no")
	})
	if err == nil || woken {
		t.Errorf("err %v, woken %v", err, woken)
	}
	want = append(want, b.commit(1)...)
	b.published()
	b.wantExactly(want)
	b.noGaps()
}

// Every step fails once before it happens and once after it happened.
func TestEachStepMayFail(t *testing.T) {
	for _, point := range []string{"read", "publish", "published", "checkpoint", "checkpointed"} {
		t.Run(point, func(t *testing.T) {
			b := newBench(t)
			want := b.commit(25)
			var failed atomic.Int32
			var recovered atomic.Int32
			b.start(Hooks{
				Fault: func(p string) error {
					if p == point && failed.Add(1) <= 3 {
						return errors.New("injected")
					}
					return nil
				},
				Recovered: func(n int) { recovered.Add(int32(n)) },
			})
			b.eventually("the fault", func() bool { return failed.Load() > 0 })
			b.eventually("three faults", func() bool {
				want = append(want, b.commit(1)...)
				return failed.Load() >= 3
			})
			b.published()
			b.wantExactly(want)
			// After "checkpointed" the next batch may already be in the stream.
			lost, kept := point == "published" || point == "checkpoint", point == "read" || point == "publish"
			if n := recovered.Load(); lost && n == 0 || kept && n > 0 {
				t.Errorf("recovered %d events", n)
			}
		})
	}
}

// A relay of an external stream does not create it: it waits, logs that, and publishes once the stream has been
// created.
func TestExternalStreamIsWaitedFor(t *testing.T) {
	b := newBench(t)
	c := b.config()
	c.ExternalStream = true
	b.run(b.relayOf(c))
	want := b.commit(3)
	b.eventually("a clear error", func() bool {
		return strings.Contains(b.log.String(), "stream MEMBER_ESSENTIAL does not exist: create it")
	})
	js, err := jetstream.New(b.connect())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), c.Stream); err != nil {
		t.Fatal(err)
	}
	b.published()
	b.wantExactly(want)
}

func TestDefectiveEventsDieAlone(t *testing.T) {
	b := newBench(t)
	var died atomic.Int32
	b.start(Hooks{Died: func(string, error) { died.Add(1) }})
	large, header, typ := event("k", 1), event("k", 2), event("k", 3)
	large.Payload = make([]byte, 2<<20)
	header.Headers = map[string]string{"Nats-Expected-Last-Sequence": "1"}
	typ.Type = "no spaces allowed"
	good := event("k", 4)
	tx := b.begin()
	b.append(tx, large, header, typ, good)
	b.end(tx.Commit)
	b.published()
	b.wantExactly([]string{good.ID})
	s, err := ReadStatus(t.Context(), b.pool, lane)
	if err != nil || s.Dead != 3 || died.Load() != 3 {
		t.Errorf("dead %d, hook %d, err %v; want 3", s.Dead, died.Load(), err)
	}
}

func TestStatusShowsWhatIsPending(t *testing.T) {
	b := newBench(t)
	if s, err := ReadStatus(t.Context(), b.pool, lane); err != nil || s.Lag != 0 || !s.OldestPending.IsZero() {
		t.Fatalf("%+v, %v", s, err)
	}
	b.commit(4)
	if s, err := ReadStatus(t.Context(), b.pool, lane); err != nil || s.Lag != 4 || s.OldestPending.IsZero() {
		t.Fatalf("%+v, %v", s, err)
	}
}
