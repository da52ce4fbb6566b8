package outbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// waits records what a relay reports through Hooks.Waiting.
type waits struct {
	mu    sync.Mutex
	heard []error // nil: it continues
	since time.Time
}

func (w *waits) hook(why error, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard, w.since = append(w.heard, why), since
}

// now reports whether the relay waits for reason or, if reason is nil, does not wait.
func (w *waits) now(reason error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.heard) == 0 {
		return reason == nil
	}
	last := w.heard[len(w.heard)-1]
	return last == nil && reason == nil || reason != nil && errors.Is(last, reason)
}

// Two services share one lane: the second publishes nothing, logs why, and starts publishing when the lane is
// given to it.
func TestLaneRemembersItsStreamAndSource(t *testing.T) {
	for name, change := range map[string]func(*RelayConfig){
		"stream": func(c *RelayConfig) {
			c.Stream, c.SubjectPrefix = StreamConfig("OTHER", []string{"other.>"}, 1), "other."
		},
		"source": func(c *RelayConfig) { c.Source = "/other" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, stop := b.start(Hooks{})
			want := b.commit(3)
			b.published()
			stop()
			var w waits
			c := b.config()
			c.Hooks.Waiting = w.hook
			change(&c)
			b.run(b.relayOf(c))
			b.eventually("the refusal", func() bool {
				const why = "lane essential belongs to stream MEMBER_ESSENTIAL and source /test, not to"
				return w.now(ErrLane) && strings.Contains(b.log.String(), why)
			})
			late := b.commit(2)
			if s, err := ReadStatus(t.Context(), b.pool, lane); err != nil || s.Lag != 2 || s.Leader != "" {
				t.Errorf("%+v, %v: want 2 events that wait, and no leader", s, err)
			}
			b.wantExactly(want)
			b.exec(b.pool, "UPDATE outbox_lane SET stream = $1, source = $2", c.Stream.Name, c.Source)
			b.published()
			b.eventually("the end of the wait", func() bool { return w.now(nil) })
			if b.stream == c.Stream.Name {
				b.wantExactly(append(want, late...))
				return
			}
			b.stream = c.Stream.Name // a new stream gets the replay window
			b.wantExactly(append(want, late...))
		})
	}
}

// The lane is given to another source while its relay leads: the relay gives up leadership.
func TestLeaderGivesUpALaneThatMoves(t *testing.T) {
	b := newBench(t)
	var w waits
	b.start(Hooks{Waiting: w.hook})
	b.commit(1)
	b.published()
	b.exec(b.pool, "UPDATE outbox_lane SET source = '/other'")
	b.eventually("the end of its leadership", func() bool { return w.now(ErrLane) })
}

// A stream has one writer: a second lane is refused.
func TestAStreamHasOneLane(t *testing.T) {
	b := newBench(t)
	b.start(Hooks{})
	b.commit(1)
	b.published()
	b.exec(b.pool, "SELECT outbox_create_lane('second')")
	c := b.config()
	c.Lane = "second"
	b.run(b.relayOf(c))
	b.eventually("the refusal", func() bool {
		const why = "another lane of this database has stream MEMBER_ESSENTIAL: give lane second"
		return strings.Contains(b.log.String(), why)
	})
}

// The relay does not publish into a stream that may lose or refuse messages. It logs what to change, and
// continues when that is done.
func TestUnfitStreamIsWaitedFor(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(*jetstream.StreamConfig)
		want string
	}{
		"atomic": {func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, "set allow_atomic"},
		"direct": {func(c *jetstream.StreamConfig) { c.AllowDirect = false }, "set allow_direct"},
		"interest": {func(c *jetstream.StreamConfig) {
			c.Retention = jetstream.InterestPolicy
		}, "create it with retention limits"},
		"old": {func(c *jetstream.StreamConfig) {
			c.Discard, c.MaxMsgs = jetstream.DiscardOld, 5
		}, "set discard to new"},
		"per subject": {func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, "set max_msgs_per_subject to -1"},
		"no ack": {func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false },
			"unset no_ack"},
		"subjects": {func(c *jetstream.StreamConfig) { c.Subjects = []string{"elsewhere.>"} },
			"it accepts no subject that begins with signup.essential.: add one"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			js, err := jetstream.New(b.connect())
			if err != nil {
				t.Fatal(err)
			}
			right := StreamConfig(b.stream, []string{b.prefix() + ">"}, 1)
			unfit := right
			tt.harm(&unfit)
			if _, err := js.CreateStream(t.Context(), unfit); err != nil {
				t.Fatal(err)
			}
			var w waits
			b.start(Hooks{Waiting: w.hook})
			want := b.commit(12)
			b.eventually("a clear error", func() bool {
				return w.now(ErrStream) && strings.Contains(b.log.String(), tt.want)
			})
			b.wantExactly(nil)
			b.wantStatus(12, 0)
			if _, err := js.UpdateStream(t.Context(), right); err != nil {
				if err := js.DeleteStream(t.Context(), b.stream); err != nil {
					t.Fatal(err)
				}
			}
			b.published()
			b.wantExactly(want)
			b.eventually("the end of the wait", func() bool { return w.now(nil) })
		})
	}
}

func TestOlderThan(t *testing.T) {
	for version, want := range map[string]bool{"2.11.9": true, "1.4.0": true, "2.12.0": false, "2.12.0-RC.1": false,
		"v2.15.2": false, "3.0.0": false, "": false, "dev": false} {
		if got := olderThan(version, 2, 12); got != want {
			t.Errorf("%q older than 2.12: %v", version, got)
		}
	}
}

// NATS fails under a relay whose connection buffers: nothing is buffered, and the relay reports that NATS is not
// connected, and since when.
func TestNATSIsAway(t *testing.T) {
	b := newBench(t)
	var w waits
	c := b.config()
	nc, err := nats.Connect(b.nats.URL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c.NATS, c.Hooks.Waiting = nc, w.hook
	b.run(b.relayOf(c))
	want := b.commit(3)
	b.published()
	before := time.Now()
	b.nats.Stop()
	sent := nc.Stats().OutMsgs
	want = append(want, b.commit(30)...)
	b.eventually("the relay to wait for NATS", func() bool { return w.now(ErrNATS) })
	for _, want := range []string{"reason=nats since=", "NATS is not connected: check that the server runs"} {
		if log := b.log.String(); !strings.Contains(log, want) {
			t.Errorf("the log says\n%s", log)
		}
	}
	w.mu.Lock()
	if w.since.Before(before) {
		t.Errorf("it waits since %v, NATS ended after %v", w.since, before)
	}
	w.mu.Unlock()
	if n := nc.Stats().OutMsgs - sent; n > 0 {
		t.Errorf("%d messages were buffered", n)
	}
	b.nats.Start()
	b.published()
	b.wantExactly(want)
	b.eventually("the end of the wait", func() bool { return w.now(nil) })
}

// impostor is a NATS server of a given version that answers every request with "no responders", as a server
// without JetStream does.
func impostor(t *testing.T, version string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveNoResponders(conn, version)
		}
	}()
	return "nats://" + l.Addr().String()
}

func serveNoResponders(conn net.Conn, version string) {
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprintf(conn, `INFO {"server_id":"X","version":%q,"headers":true,"max_payload":1048576}`+"\r\n", version)
	inbox := map[string]string{} // subject up to the wildcard → sid
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		switch words := strings.Fields(lines.Text()); {
		case len(words) == 1 && words[0] == "PING":
			_, _ = fmt.Fprint(conn, "PONG\r\n")
		case len(words) == 3 && words[0] == "SUB":
			inbox[strings.TrimSuffix(words[1], "*")] = words[2]
		case len(words) == 4 && words[0] == "PUB": // with a reply
			for prefix, sid := range inbox {
				if strings.HasPrefix(words[2], prefix) {
					_, _ = fmt.Fprintf(conn, "HMSG %s %s 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", words[2], sid)
				}
			}
		}
	}
}

func TestServerThatCannotServe(t *testing.T) {
	for version, want := range map[string]string{
		"2.12.0": "JetStream does not answer: enable it on the NATS server and for this account",
		"2.11.9": "the NATS server has version 2.11.9: atomic batches need 2.12 or later",
	} {
		t.Run(version, func(t *testing.T) {
			b := newBench(t)
			nc, err := nats.Connect(impostor(t, version))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			var w waits
			c := b.config()
			c.NATS, c.Hooks.Waiting = nc, w.hook
			b.run(b.relayOf(c))
			b.eventually("a clear error", func() bool {
				return w.now(ErrNATS) && strings.Contains(b.log.String(), want)
			})
		})
	}
}

func TestExplain(t *testing.T) {
	for err, want := range map[error]string{
		nats.ErrReconnectBufExceeded:               "NATS is not connected",
		nats.ErrDisconnected:                       "NATS is not connected",
		nats.ErrNoResponders:                       "JetStream does not answer: enable it",
		jetstream.ErrJetStreamNotEnabledForAccount: "JetStream does not answer: enable it",
		jetstream.ErrNoStreamResponse:              "no stream answers on this subject: create the stream",
		nats.ErrTimeout:                            "nats: timeout: NATS is overloaded or paused, or this user may not",
		context.DeadlineExceeded:                   "context deadline exceeded: NATS is overloaded",
		jetstream.ErrNoHeartbeat:                   "NATS is overloaded or paused",
		nats.ErrAuthorization:                      "does not let this user in: check user and password",
		nats.ErrNoServers:                          "NATS cannot be reached: check its URL",
	} {
		if got := Explain(fmt.Errorf("publish: %w", err)); !strings.Contains(got.Error(), want) ||
			!errors.Is(got, err) {
			t.Errorf("%v becomes %v, want %q", err, got, want)
		}
	}
	if Explain(nil) != nil {
		t.Error("nil becomes an error")
	}
}
