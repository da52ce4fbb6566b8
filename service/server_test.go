package service_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

func startServer(t *testing.T, h http.Handler) (*service.Server, <-chan error) {
	t.Helper()
	s := service.NewServer(service.ServerConfig{Name: "test", Addr: "127.0.0.1:0", Handler: h, Log: discard()})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	return s, served
}

// hammer posts from several goroutines, with one connection per request or kept-alive connections, until each
// of them is refused. It returns every other failure.
func hammer(addr string, keepAlive bool, done *atomic.Int64) (wait func() []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failures []error
	for range 16 {
		wg.Go(func() {
			transport := &http.Transport{DisableKeepAlives: !keepAlive,
				DialContext: (&net.Dialer{Timeout: 500 * time.Millisecond}).DialContext}
			defer transport.CloseIdleConnections()
			for {
				// Without GetBody the transport cannot repeat the request on its own.
				req, _ := http.NewRequest(http.MethodPost, "http://"+addr, io.NopCloser(strings.NewReader("x")))
				resp, err := (&http.Client{Transport: transport}).Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				var op *net.OpError
				switch {
				case err == nil:
					done.Add(1)
					continue
				case errors.Is(err, syscall.ECONNREFUSED):
					return
				case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
					continue // a lost handshake: nothing was sent
				}
				mu.Lock()
				failures = append(failures, err)
				mu.Unlock()
				return
			}
		})
	}
	return func() []error { wg.Wait(); return failures }
}

func TestShutdownUnderLoadOnlyRefuses(t *testing.T) {
	for name, keepAlive := range map[string]bool{"new connections": false, "kept alive": true} {
		t.Run(name, func(t *testing.T) {
			var done, handled atomic.Int64
			s, served := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				handled.Add(1)
			}))
			wait := hammer(s.Addr(), keepAlive, &done)
			testenv.Eventually(t, 10*time.Second, "some requests", func() bool { return done.Load() > 500 })
			s.BeginDrain()
			// The drain delay: every client uses its connection meanwhile.
			n := done.Load()
			testenv.Eventually(t, 10*time.Second, "requests while draining", func() bool { return done.Load() > n+100 })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
				t.Error(err)
			}
			for _, err := range wait() {
				t.Errorf("a request failed: %v", err)
			}
			if done.Load() != handled.Load() {
				t.Errorf("%d requests handled, %d answered", handled.Load(), done.Load())
			}
		})
	}
}

// A client that connected before the listener closed is served, even if its request comes only afterwards.
func TestShutdownServesTheFirstRequestOfAnOpenConnection(t *testing.T) {
	s, _ := startServer(t, http.NotFoundHandler())
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(t.Context()) }()
	testenv.Eventually(t, 10*time.Second, "the listener to close", func() bool {
		late, err := net.DialTimeout("tcp", s.Addr(), 20*time.Millisecond)
		if err == nil {
			late.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 404") ||
		!strings.Contains(string(answer), "Connection: close") {
		t.Errorf("answer %q, %v", answer, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestShutdownEndsSlowRequestsAtItsDeadline(t *testing.T) {
	started := make(chan struct{})
	s, _ := startServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
	}))
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + s.Addr())
		if err == nil {
			resp.Body.Close()
		}
		answered <- err
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v", err)
	}
	if <-answered == nil {
		t.Error("the request was answered")
	}
}

func TestProcessStopsInOrder(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	task := func(name string) service.Task {
		return service.Task{Name: name, Run: func(ctx context.Context) error { <-ctx.Done(); note(name); return nil }}
	}
	s := service.NewServer(
		service.ServerConfig{Name: "test", Addr: "127.0.0.1:0", Handler: http.NotFoundHandler(), Log: discard()})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	p := &service.Process{
		Log: discard(), Health: service.NewHealth(nil), Servers: []*service.Server{s},
		Relays: []service.Task{task("relay")}, Workers: []service.Task{task("worker")},
		Closers:      []func(context.Context) error{func(context.Context) error { note("closer"); return nil }},
		DrainTimeout: 5 * time.Second,
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !slices.Equal(order, []string{"relay", "worker", "closer"}) {
		t.Errorf("order %v", order)
	}

	broken := errors.New("broken")
	order = nil
	p = &service.Process{
		Log: discard(), Relays: []service.Task{task("relay")}, DrainDelay: time.Hour, DrainTimeout: 5 * time.Second,
		Workers: []service.Task{{Name: "w", Run: func(context.Context) error { return broken }}},
	}
	if err := p.Run(t.Context()); !errors.Is(err, broken) || len(order) != 1 {
		t.Errorf("err = %v, stopped %v", err, order)
	}
}
