package service_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// serveHTTP2 starts a server with a certificate, and returns its client.
func serveHTTP2(t *testing.T, handler http.HandlerFunc) (s *service.Server, config *tls.Config, served chan error) {
	t.Helper()
	ca, m := testenv.NewAuthority(t), mount(t, "tls.crt", "tls.key")
	m.swap(func(dir string) { ca.Issue(dir, "server") })
	s, _ = secure(t, m, handler)
	served = make(chan error, 1)
	go func() { served <- s.Serve() }()
	return s, &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}, served
}

func http2Client(config *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// A server that stops sends GOAWAY: each request is served once, by this server or not at all, and clients know
// which.
func TestShutdownOverHTTP2ServesEachRequestOnce(t *testing.T) {
	var done, handled atomic.Int64
	s, config, served := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		handled.Add(1)
		if r.ProtoMajor != 2 || w.Header().Get("Strict-Transport-Security") != "max-age=31536000" {
			t.Errorf("%s %v", r.Proto, w.Header())
		}
	})
	var all sync.WaitGroup
	for range 4 { // connections
		client := http2Client(config)
		defer client.CloseIdleConnections()
		for range 8 { // streams of each connection
			all.Go(func() {
				for {
					answer, err := client.Post("https://"+s.Addr(), "text/plain", strings.NewReader("x"))
					if errors.Is(err, syscall.ECONNREFUSED) {
						return
					}
					if err != nil {
						t.Errorf("a request failed: %v", err)
						return
					}
					answer.Body.Close()
					done.Add(1)
				}
			})
		}
	}
	testenv.Eventually(t, 20*time.Second, "some requests", func() bool { return done.Load() > 500 })
	s.BeginDrain()
	n := done.Load()
	testenv.Eventually(t, 20*time.Second, "requests while draining", func() bool { return done.Load() > n+100 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
		t.Error(err)
	}
	all.Wait()
	if done.Load() != handled.Load() {
		t.Errorf("%d requests handled, %d answered", handled.Load(), done.Load())
	}
}

// An event stream does not close the connection for other requests, and ends when the server drains.
func TestEventsOverHTTP2(t *testing.T) {
	news := make(chan string)
	addresses := make(chan string, 10)
	s, config, served := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		addresses <- r.RemoteAddr
		if r.URL.Path == "/events" {
			pace := service.EventPace{Heartbeat: time.Minute, Write: 10 * time.Second, Lifetime: time.Minute}
			service.StreamEvents(w, r, pace, service.Event{Text: "first\n\n"}, news, func(text string) service.Event {
				return service.Event{Text: text}
			})
		}
	})
	client := http2Client(config)
	defer client.CloseIdleConnections()
	stream, err := client.Get("https://" + s.Addr() + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	expect := func(want string) {
		t.Helper()
		text := make([]byte, len(want))
		if _, err := io.ReadFull(stream.Body, text); err != nil || string(text) != want {
			t.Fatalf("%q, %v, want %q", text, err, want)
		}
	}
	expect("first\n\n")
	for range 3 {
		answer, err := client.Get("https://" + s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	news <- "second\n\n"
	expect("second\n\n")
	first := <-addresses
	for range 3 {
		if another := <-addresses; another != first {
			t.Error("the stream takes a connection of its own")
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	if rest, err := io.ReadAll(stream.Body); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	if err := errors.Join(<-stopped, <-served); err != nil {
		t.Error(err)
	}
}

// A client that opens streams and resets them at once (CVE-2023-44487) keeps no more handlers busy than streams
// are allowed, and is disconnected.
func TestRapidResetIsBounded(t *testing.T) {
	var running, most atomic.Int64
	release := make(chan struct{})
	s, config, _ := serveHTTP2(t, func(http.ResponseWriter, *http.Request) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
		running.Add(-1)
	})
	defer func() { _ = s.Shutdown(t.Context()) }()
	defer close(release)
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", s.Addr(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for _, field := range []string{":method GET", ":scheme https", ":path /", ":authority x"} {
		name, value, _ := strings.Cut(field, " ")
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	err = framer.WriteSettings()
	for stream := uint32(1); err == nil && stream < 20000; stream += 2 {
		err = framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true,
		})
		if err == nil {
			err = framer.WriteRSTStream(stream, http2.ErrCodeCancel)
		}
	}
	streams := uint32(0)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("%v before GOAWAY", err)
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && !settings.IsAck() {
			streams, _ = settings.Value(http2.SettingMaxConcurrentStreams)
		}
		if away, ok := frame.(*http2.GoAwayFrame); ok {
			if away.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("sent away with %v", away.ErrCode)
			}
			break
		}
	}
	if streams != 100 || most.Load() > 100 {
		t.Errorf("%d streams are allowed, %d handlers ran at a time", streams, most.Load())
	}
}
