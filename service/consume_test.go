package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// inbox collects the messages that Consume passes to it.
type inbox struct {
	mu   sync.Mutex
	seen map[string]int
	most int // largest batch
}

func (i *inbox) handle(_ context.Context, batch []service.Message) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.seen == nil {
		i.seen = make(map[string]int)
	}
	for _, m := range batch {
		i.seen[string(m.Body)]++
	}
	i.most = max(i.most, len(batch))
	return nil
}

func (i *inbox) has(n int) func() bool {
	return func() bool {
		i.mu.Lock()
		defer i.mu.Unlock()
		return len(i.seen) == n
	}
}

// A consumer whose server is away reports that, not the state of the client's buffer.
func TestConsumerSaysThatNATSIsAway(t *testing.T) {
	b := newBroker(t)
	b.stream()
	var text logText
	log := slog.New(slog.NewTextHandler(&text, nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var in inbox
	config := service.ConsumerConfig{Stream: "S", Durable: "c", Batch: 1, Log: log}
	go func() { done <- service.Consume(ctx, b.nc.Conn, config, in.handle) }()
	b.eventually("a message", func(ctx context.Context) error {
		if _, err := b.js.Publish(ctx, "s.a", []byte("x")); err != nil {
			return err
		}
		if !in.has(1)() {
			return errors.New("none yet")
		}
		return nil
	})
	b.Kill()
	testenv.Eventually(t, 10*time.Second, "a clear error", func() bool {
		return strings.Contains(text.String(), "NATS is not connected: check that the server runs")
	})
	if strings.Contains(text.String(), "outbound buffer") {
		t.Errorf("the log misleads:\n%s", text.String())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// logText keeps the text of a log.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type broker struct {
	*testenv.NATSServer
	t  *testing.T
	nc *service.NATS
	js jetstream.JetStream
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{NATSServer: testenv.NATS(t), t: t}
	var err error
	if b.nc, err = service.ConnectNATS(service.Common{NATSURL: service.NewSecret(b.URL)}, "test",
		discard()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.nc.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if b.js, err = jetstream.New(b.nc.Conn); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *broker) stream() {
	b.t.Helper()
	b.eventually("the stream", func(ctx context.Context) error {
		_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		return err
	})
}

func (b *broker) publish(from, to int) {
	b.t.Helper()
	for i := from; i < to; i++ {
		b.eventually("a message", func(ctx context.Context) error {
			_, err := b.js.Publish(ctx, "s.x", fmt.Appendf(nil, "%d", i))
			return err
		})
	}
}

func (b *broker) eventually(what string, do func(context.Context) error) {
	b.t.Helper()
	testenv.Eventually(b.t, 15*time.Second, what, func() bool {
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		defer cancel()
		return do(ctx) == nil
	})
}

func (b *broker) consume(handle func(context.Context, []service.Message) error) (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- service.Consume(ctx, b.nc.Conn, service.ConsumerConfig{
			Stream: "S", Durable: "d", Subjects: []string{"s.>"}, Batch: 10, Log: discard(),
		}, handle)
	}()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	}
}

func TestConsumeOutlivesTheBroker(t *testing.T) {
	b := newBroker(t)
	var in inbox
	defer b.consume(in.handle)()
	// Nothing exists yet.
	b.stream()
	b.publish(0, 30)
	testenv.Eventually(t, 10*time.Second, "messages of a new stream", in.has(30))
	b.Kill()
	b.Start()
	b.publish(30, 40)
	testenv.Eventually(t, 10*time.Second, "messages after a crash", in.has(40))
	b.Pause()
	testenv.Eventually(t, 15*time.Second, "the pause to be noticed", func() bool { return !b.nc.IsConnected() })
	b.Resume()
	b.publish(40, 50)
	testenv.Eventually(t, 15*time.Second, "messages after a pause", in.has(50))
	for round := range 2 {
		b.Wipe()
		b.stream()
		b.publish(50+10*round, 60+10*round)
		testenv.Eventually(t, 15*time.Second, "messages after a wipe", in.has(60+10*round))
	}
}

// A batch that was delivered before the broker lost its data must not be acknowledged to the new broker, where
// the sequences belong to other messages.
func TestConsumeDoesNotAcknowledgeAcrossAWipe(t *testing.T) {
	b := newBroker(t)
	b.stream()
	b.publish(0, 1)
	var in inbox
	holding, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer b.consume(func(ctx context.Context, batch []service.Message) error {
		once.Do(func() { close(holding); <-release })
		return in.handle(ctx, batch)
	})()
	<-holding
	b.Wipe()
	b.stream()
	// The same consumer name, with one message delivered to another client: an acknowledgement of sequence one
	// would now lose that message.
	b.publish(1, 2)
	b.eventually("the new consumer", func(ctx context.Context) error {
		c, err := b.js.CreateConsumer(ctx, "S", jetstream.ConsumerConfig{
			Durable: "d", FilterSubjects: []string{"s.>"}, AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: 2 * time.Second, MaxDeliver: -1,
		})
		if err != nil {
			return err
		}
		_, err = c.Next(jetstream.FetchMaxWait(time.Second))
		return err
	})
	close(release)
	testenv.Eventually(t, 15*time.Second, "the new message", in.has(2))
}

func TestConsumeRepeatsAFailedBatchAndHoldsNoMore(t *testing.T) {
	b := newBroker(t)
	b.stream()
	b.publish(0, 50)
	var calls atomic.Int64
	var broken atomic.Bool
	broken.Store(true)
	var in inbox
	stop := b.consume(func(ctx context.Context, batch []service.Message) error {
		calls.Add(1)
		if broken.Load() {
			return errors.New("no database")
		}
		return in.handle(ctx, batch)
	})
	defer stop()
	testenv.Eventually(t, 10*time.Second, "repeated calls", func() bool { return calls.Load() >= 4 })
	info, err := b.js.Consumer(t.Context(), "S", "d")
	if err != nil {
		t.Fatal(err)
	}
	if n := info.CachedInfo().NumAckPending; n == 0 || n > 10 {
		t.Errorf("%d messages held, want 1 to 10", n)
	}
	broken.Store(false)
	testenv.Eventually(t, 10*time.Second, "all messages", in.has(50))
	if in.most > 10 || in.most < 2 {
		t.Errorf("largest batch %d", in.most)
	}
}

func TestConsumeLeavesAnExistingConsumerAlone(t *testing.T) {
	b := newBroker(t)
	b.stream()
	b.publish(0, 1)
	before, err := b.js.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{
		Durable: "d", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 7 * time.Second, MaxDeliver: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	var in inbox
	stop := b.consume(in.handle)
	testenv.Eventually(t, 10*time.Second, "the message", in.has(1))
	stop()
	after, err := b.js.Consumer(t.Context(), "S", "d")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.CachedInfo().Config; got.AckWait != 7*time.Second || got.MaxDeliver != 3 ||
		!after.CachedInfo().Created.Equal(before.CachedInfo().Created) {
		t.Errorf("changed: %+v", got)
	}
}

// Replicas start and stop under load. Messages that a replica had been sent when it stopped reach another at
// once, not after the acknowledgement deadline.
func TestStoppedConsumerHoldsNothingBack(t *testing.T) {
	b := newBroker(t)
	b.stream()
	var in inbox
	var published atomic.Int64
	publish, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; i < 1_000_000 && publish.Err() == nil; i++ {
			if _, err := b.js.Publish(t.Context(), "s.x", fmt.Append(nil, i)); err != nil {
				t.Error(err)
				return
			}
			published.Add(1)
		}
	})
	consume := func(n int64) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		enough := published.Load() + n
		ended := make(chan error, 1)
		go func() {
			ended <- service.Consume(ctx, b.nc.Conn,
				service.ConsumerConfig{Stream: "S", Durable: "d", Batch: 10, Log: discard()}, in.handle)
		}()
		testenv.Eventually(t, 20*time.Second, "some load", func() bool { return published.Load() >= enough })
		if n == 0 {
			testenv.Eventually(t, 10*time.Second, "every message", in.has(int(published.Load())))
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for range 12 {
		consume(150)
	}
	done()
	wg.Wait()
	consume(0)
}
