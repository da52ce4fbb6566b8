package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
)

func TestPartsOfAFlow(t *testing.T) {
	f := newFlights(8)
	events := []struct{ committed, received time.Duration }{
		{500, 600},                 // of the phase before
		{1000, 1001}, {1400, 1403}, // first part
		{1500, 1900}, {1900, 2005}, // second part; the last one is received after its end
		{2010, 2011}, // an open writer commits after the end
	}
	for n, e := range events {
		f.committed[n].Store(int64(e.committed * time.Millisecond))
		f.received[n].Store(int64(e.received * time.Millisecond))
	}
	out := f.evaluate(span{first: 1, last: len(events), from: time.Second, to: 2 * time.Second}, 2)
	if want := (series{4, 2}); !slices.Equal(out.throughput, want) {
		t.Errorf("throughput %v, want %v", out.throughput, want)
	}
	if want := (series{2, 105}); !slices.Equal(out.p50, want) {
		t.Errorf("p50 %v, want %v", out.p50, want)
	}
	if want := (series{3, 400}); !slices.Equal(out.p99, want) {
		t.Errorf("p99 %v, want %v", out.p99, want)
	}
	if len(out.points) != 2 || out.points[0].second != 0 || out.points[0].p99 != 400 || out.points[1].p50 != 1 {
		t.Errorf("points %v", out.points)
	}
}

// The messages of the limit in R and L must have the headers and the size of the outbox's messages.
func TestRawMessageIsLikeOneOfTheOutbox(t *testing.T) {
	b := testBench(t)
	stored := map[string]*jetstream.RawStreamMsg{}
	for _, m := range []maker{rawMaker, outboxMaker} {
		err := b.at(t.Context(), m, func(s *site, sys system) error {
			if err := sys.fill(t.Context(), 2); err != nil {
				return err
			}
			return relaying(t.Context(), sys, func() error {
				if err := s.drained(t.Context(), 2); err != nil {
					return err
				}
				stream, err := s.js.Stream(t.Context(), s.name)
				if err != nil {
					return err
				}
				stored[m.name], err = stream.GetMsg(t.Context(), 2)
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, ours := stored["raw"], stored["outbox"]
	for _, m := range []*jetstream.RawStreamMsg{raw, ours} {
		// these depend on how the message was published
		maps.DeleteFunc(m.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, "Nats-") })
	}
	if a, b := slices.Sorted(maps.Keys(raw.Header)), slices.Sorted(maps.Keys(ours.Header)); !slices.Equal(a, b) {
		t.Errorf("headers of the limit %v, of the outbox %v", a, b)
	}
	size := func(m *jetstream.RawStreamMsg) (n int) {
		for k, v := range m.Header {
			n += len(k) + len(v[0])
		}
		return n + len(m.Subject) + len(m.Data)
	}
	if a, b := size(raw), size(ours); a < b-10 || a > b+10 { // a time has up to nine decimals
		t.Errorf("the limit's message has %d bytes, the outbox's %d", a, b)
	}
}

func TestReplicaInAnotherProcessLeads(t *testing.T) {
	b := testBench(t)
	outs, dead, err := b.steady(t.Context(), replicasMaker, 50, 1, phase{lasts: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(outs) != 1 || outs[0].p99.median() <= 0 || dead != 0 {
		t.Errorf("outcomes %+v, %v dead rows", outs, dead)
	}
}

func TestWholeSagaOfTheLimitIsAudited(t *testing.T) {
	b := testBench(t)
	b.steps, b.gentle = 100*time.Millisecond, 100*time.Millisecond
	for want, forget := range map[string]string{
		"": "SELECT 1",
		"are ready": `UPDATE signup_saga SET state = 'provisioning', due_at = now()
			WHERE id = (SELECT id FROM signup_saga LIMIT 1)`,
		"have a stora": "DELETE FROM storage.storage WHERE member_id = (SELECT member_id FROM storage.storage LIMIT 1)",
	} {
		m := sagaMaker{"forgetful", func(_ context.Context, s *site, p *provider) (sagas, error) {
			return &forgetful{singleProcess{s, p}, forget}, nil
		}}
		err := b.sagasOf(t.Context(), m, new(speeds))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("after %q: error %v, want %q", forget, err, want)
		}
	}
}

// forgetful undoes something after each saga, as a broken system would.
type forgetful struct {
	singleProcess
	forget string
}

func (f *forgetful) signUp(ctx context.Context) error {
	if err := f.singleProcess.signUp(ctx); err != nil {
		return err
	}
	_, err := f.clients.Exec(ctx, f.forget)
	return err
}

func TestRiverRunsWholeSagas(t *testing.T) {
	b := testBench(t)
	b.steps, b.gentle = time.Second, 100*time.Millisecond
	var s speeds
	if err := b.sagasOf(t.Context(), riverSagaMaker("River, tuned", riverTunedConfig), &s); err != nil {
		t.Fatal(err)
	}
	if s.rate.median() <= 0 || s.p50.median() <= 0 {
		t.Errorf("speeds %+v", s)
	}
}

func TestWatcherSeesWhatIsReady(t *testing.T) {
	b := testBench(t)
	err := b.fresh(t.Context(), func(s *site) error {
		w, stop := watchSagas(t.Context(), s.clients)
		m, err := newMember()
		if err != nil {
			return err
		}
		batch := new(pgx.Batch)
		queueSignup(batch, m)
		if err := s.clients.SendBatch(t.Context(), batch).Close(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := w.wait(ctx, "sgn_"+m.saga); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("seen before it is ready: %v", err)
		}
		seen := make(chan error, 1)
		go func() { seen <- w.wait(t.Context(), "sgn_"+m.saga) }()
		batch = new(pgx.Batch)
		queueReady(batch, m.saga)
		return errors.Join(s.clients.SendBatch(t.Context(), batch).Close(), <-seen, stop())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCreationsAreCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	var lines strings.Builder
	for _, l := range []struct{ op, member string }{{"create", "a"}, {"create", "b"}, {"delete", "b"},
		{"create", "a"}} {
		fmt.Fprintf(&lines, `{"op":%q,"member_id":%q}`+"\n", l.op, l.member)
	}
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if members, doubled, err := readCreations(path); err != nil || members != 2 || doubled != 1 {
		t.Errorf("%d members, %d doubled, %v", members, doubled, err)
	}
}
