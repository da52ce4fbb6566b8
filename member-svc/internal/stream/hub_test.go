package stream

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const soon = 20 * time.Second

// stage is a hub on a real database with signups, numbered from 1, all provisioning.
type stage struct {
	*Hub
	pool  *pgxpool.Pool
	looks atomic.Int64 // polls of the database
	begun atomic.Int64 // streams
	ended atomic.Int64 // streams that have ended
}

func newStage(t *testing.T, pace Pace, signups int) *stage {
	t.Helper()
	s := &stage{}
	cfg, err := pgxpool.ParseConfig(storetest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.Tracer = (*looks)(&s.looks)
	if s.pool, err = pgxpool.NewWithConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	storetest.Exec(t, s.pool, `WITH m AS (
INSERT INTO member (id, username, username_key, plan, password_hash, created_at)
SELECT gen_random_uuid(), 'member' || n, 'member' || n, 'free', 'x', now() FROM generate_series(1, $1::int) AS n
    RETURNING id, username)
INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at, due_at,
    created_at, updated_at)
SELECT gen_random_uuid(), id, 'sgn_' || lpad(substr(username, 7), 40, '0'), 'provisioning', 1, 1, now(), now(), now(),
    now(), now() FROM m`, signups)
	s.Hub = NewHub(store.New(s.pool, storetest.Steps, storetest.Secret, func() {}), storetest.Steps, pace)
	return s
}

// looks is a query tracer that counts polls.
type looks atomic.Int64

func (l *looks) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(q.SQL, "-- name: changedSignups\n") {
		(*atomic.Int64)(l).Add(1)
	}
	return ctx
}

func (*looks) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func signupID(n int) string { return fmt.Sprintf("sgn_%040d", n) }

// set updates signups with the given assignments.
func (s *stage) set(t *testing.T, assignments string) {
	t.Helper()
	storetest.Exec(t, s.pool, "UPDATE signup_saga SET "+assignments)
}

func (s *stage) view(t testing.TB, n int) signup.View {
	t.Helper()
	r, err := s.store.Find(t.Context(), signupID(n))
	if err != nil {
		t.Fatal(err)
	}
	return signup.NewView(r, s.steps)
}

// ServeHTTP serves /{signup id}.
func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	record, err := s.store.Find(r.Context(), path.Base(r.URL.Path))
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	s.begun.Add(1)
	defer s.ended.Add(1)
	s.Serve(w, r, signup.NewView(record, s.steps))
}

// run runs the hub until the test ends.
func (s *stage) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		service.Loop(ctx, "signup streams", s.pace.Interval, nil, slog.New(slog.DiscardHandler), s.Poll)
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

func (s *stage) poll(ctx context.Context) error {
	_, err := s.Poll(ctx)
	return err
}

// client reads one stream.
type client struct {
	t    *testing.T
	resp *http.Response
	text *bufio.Scanner
}

func follow(t *testing.T, base string, n int) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/"+signupID(n), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &client{t, resp, bufio.NewScanner(resp.Body)}
}

// event returns the fields of the next event, "" for comments; nil at the end of the stream.
func (c *client) event() map[string]string {
	c.t.Helper()
	fields := map[string]string{}
	for c.text.Scan() {
		if c.text.Text() == "" {
			return fields
		}
		name, value, _ := strings.Cut(c.text.Text(), ":")
		fields[name] = strings.TrimPrefix(value, " ")
	}
	if err := c.text.Err(); err != nil {
		c.t.Errorf("the stream breaks off: %v", err)
	}
	return nil
}

// state returns the next event that is not a heartbeat.
func (c *client) state() map[string]string {
	c.t.Helper()
	for {
		e := c.event()
		if e == nil || e["event"] != "" {
			return e
		}
	}
}

func (c *client) want(id, data string) {
	c.t.Helper()
	if e := c.state(); e["event"] != "state" || e["id"] != id || !json.Valid([]byte(e["data"])) ||
		!strings.Contains(e["data"], data) {
		c.t.Errorf("%v, want version %s with %s", e, id, data)
	}
}

// A stream shows the state at once and then each change, even one that leaves the version; it ends when the
// signup is settled. The server's timeouts do not end it.
func TestStreamOfOneSignup(t *testing.T) {
	s := newStage(t, Pace{Interval: 5 * time.Millisecond, Query: soon,
		EventPace: service.EventPace{Heartbeat: 20 * time.Millisecond, Write: soon, Lifetime: time.Hour}}, 1)
	s.run(t)
	server := httptest.NewUnstartedServer(s)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	server.Start()
	defer server.Close()
	c := follow(t, server.URL, 1)
	if h := c.resp.Header; h.Get("Content-Type") != "text/event-stream" || !c.resp.Close {
		t.Errorf("%v", h)
	}
	first := c.event()
	if first["retry"] == "" || first["id"] != "1" || !strings.Contains(first["data"], `"delayed":false`) ||
		!strings.Contains(first["data"], `"events":"/v1/signups/sgn_`) {
		t.Errorf("first: %v", first)
	}
	for range 15 { // 300 ms
		if e := c.event(); len(e) != 1 {
			t.Fatalf("no heartbeat: %v", e)
		}
	}
	s.set(t, "redrives = 1, opened_at = now() - interval '1 hour'")
	c.want("1", `"delayed":true`)
	s.set(t, "version = 2, redrives = 0, opened_at = now()")
	c.want("2", `"state":"provisioning"`)
	s.set(t, "version = 3, state = 'ready', due_at = NULL")
	c.want("3", `"state":"ready"`)
	if e := c.event(); e != nil {
		t.Errorf("after the end: %v", e)
	}
	if settled := follow(t, server.URL, 1); settled.state()["id"] != "3" || settled.event() != nil {
		t.Error("a stream of a settled signup shows it and ends")
	}
}

// A thousand streams cost one query per poll, and leave nothing behind.
func TestThousandStreamsAreOneQuery(t *testing.T) {
	const n = 1000
	s := newStage(t, Pace{Interval: time.Hour, Query: soon,
		EventPace: service.EventPace{Heartbeat: time.Hour, Write: soon, Lifetime: time.Hour}}, n/2)
	server := httptest.NewServer(s)
	defer server.Close()
	if err := s.poll(t.Context()); err != nil || s.looks.Load() != 0 {
		t.Errorf("%d queries while nobody looks, %v", s.looks.Load(), err)
	}
	goroutines := runtime.NumGoroutine()
	var heap [2]int64 // after each round; the first round fills pools and maps
	for round := range heap {
		s.set(t, "version = 1, state = 'provisioning', due_at = now()")
		t.Run("streams", func(t *testing.T) { s.serveMany(t, server.URL, n) })
		testenv.Eventually(t, soon, "an end of all goroutines",
			func() bool { return runtime.NumGoroutine() <= goroutines+5 })
		heap[round] = heapInUse()
	}
	if grown := heap[1] - heap[0]; grown > 1<<20 {
		t.Errorf("%d bytes are left", grown)
	}
	if before := s.looks.Load(); s.poll(t.Context()) != nil || s.looks.Load() != before || len(s.watched) != 0 {
		t.Error("there are queries after everybody left")
	}
}

// serveMany serves n streams, two for each signup, from provisioning to ready.
func (s *stage) serveMany(t *testing.T, url string, n int) {
	t.Helper()
	goroutines, heap := runtime.NumGoroutine(), heapInUse()
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = follow(t, url, i/2+1)
		clients[i].want("1", `"state":"provisioning"`)
	}
	t.Logf("%d goroutines and %d KiB for %d streams and their clients", runtime.NumGoroutine()-goroutines,
		(heapInUse()-heap)>>10, n)
	s.lookOnce(t) // no change
	s.set(t, "version = 2, state = 'ready', due_at = NULL")
	s.lookOnce(t)
	for _, c := range clients {
		c.want("2", `"state":"ready"`)
		if e := c.event(); e != nil {
			t.Fatalf("after the end: %v", e)
		}
	}
}

// lookOnce polls for changes and checks that this is one query.
func (s *stage) lookOnce(t *testing.T) {
	t.Helper()
	before, began := s.looks.Load(), time.Now()
	if err := s.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("a look took %s", time.Since(began))
	if n := s.looks.Load() - before; n != 1 {
		t.Errorf("a look is %d queries", n)
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // frees what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A client that reads nothing gets the newest state later, and nobody waits for it.
func TestSlowStreamsSkipToTheNewest(t *testing.T) {
	s := newStage(t, Pace{Interval: time.Hour, Query: soon}, 1)
	v := s.view(t, 1)
	a, b := s.watch(v), s.watch(v)
	for version := 2; version <= 9; version++ {
		s.set(t, fmt.Sprint("version = ", version))
		if err := s.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := (<-a.news).Version; got != int64(version) {
			t.Errorf("version %d, want %d", got, version)
		}
	}
	if got := (<-b.news).Version; got != 9 {
		t.Errorf("the slow one gets version %d", got)
	}
	late := s.watch(v) // its view is outdated
	if got := (<-late.news).Version; got != 9 {
		t.Errorf("the late one gets version %d", got)
	}
}

// A slow database is polled less often.
func TestSlowReadsAreFewer(t *testing.T) {
	s := newStage(t, Pace{Interval: time.Nanosecond, Query: soon}, 1)
	s.watch(s.view(t, 1))
	for range 10 {
		if err := s.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.looks.Load(); n != 2 {
		t.Errorf("10 looks made %d queries", n)
	}
}

// A client that does not read is dropped; the others are not affected.
func TestStuckReaderIsDropped(t *testing.T) {
	s := newStage(t, Pace{Interval: 5 * time.Millisecond, Query: soon,
		EventPace: service.EventPace{Heartbeat: time.Millisecond, Write: 200 * time.Millisecond, Lifetime: time.Hour}},
		1)
	s.run(t)
	server := httptest.NewUnstartedServer(s)
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(1) // the smallest possible
		return ctx
	}
	server.Start()
	defer server.Close()
	stuck, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	_ = stuck.(*net.TCPConn).SetReadBuffer(1)
	if _, err := io.WriteString(stuck, "GET /"+signupID(1)+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, soon, "the stream", func() bool { return s.begun.Load() == 1 })
	reads := follow(t, server.URL, 1)
	reads.want("1", "")
	var beats atomic.Int64
	states := make(chan map[string]string)
	go func() {
		defer close(states)
		for e := reads.event(); e != nil; e = reads.event() {
			if beats.Add(1); e["event"] != "" {
				states <- e
			}
		}
	}()
	testenv.Eventually(t, soon, "the end of the stuck one", func() bool { return s.ended.Load() == 1 })
	before := beats.Load()
	testenv.Eventually(t, soon, "more heartbeats for the other one", func() bool { return beats.Load() > before+10 })
	s.set(t, "version = 2, state = 'ready', due_at = NULL")
	if e := <-states; e["id"] != "2" {
		t.Errorf("%v", e)
	}
	if e, more := <-states; more {
		t.Errorf("after the end: %v", e)
	}
}

// When the server drains, streams end properly and at once, whenever they were last written to.
func TestStreamsEndWhenTheServerDrains(t *testing.T) {
	pace := Pace{Interval: time.Hour, Query: soon,
		EventPace: service.EventPace{Heartbeat: time.Hour, Write: 20 * time.Millisecond, Lifetime: time.Hour}}
	s := newStage(t, pace, 1)
	server := service.NewServer(
		service.ServerConfig{Name: "test", Addr: "127.0.0.1:0", Handler: s, Log: slog.New(slog.DiscardHandler)})
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	var clients []*client
	for range 20 {
		c := follow(t, "http://"+server.Addr(), 1)
		c.want("1", "")
		clients = append(clients, c)
	}
	<-time.After(2 * pace.Write) // the deadlines of earlier writes have passed
	server.BeginDrain()
	for _, c := range clients {
		if e := c.event(); e != nil {
			t.Errorf("%v", e)
		}
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A stream has a maximum lifetime.
func TestStreamsHaveALifetime(t *testing.T) {
	s := newStage(t, Pace{Interval: time.Hour, Query: soon,
		EventPace: service.EventPace{Heartbeat: time.Hour, Write: soon, Lifetime: 50 * time.Millisecond}}, 1)
	server := httptest.NewServer(s)
	defer server.Close()
	c := follow(t, server.URL, 1)
	c.want("1", "")
	if e := c.event(); e != nil {
		t.Errorf("%v", e)
	}
}
