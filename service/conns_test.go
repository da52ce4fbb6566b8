package service_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// One address may hold a quarter of the connections, a proxy all of them. Whoever comes too late is told at once, and whoever
// leaves makes room.
func TestConnectionsAreCapped(t *testing.T) {
	for name, c := range map[string]struct {
		proxies []netip.Prefix
		places  int
	}{
		"a client": {nil, 2},
		"a proxy":  {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			s := service.NewServer(service.ServerConfig{
				Name: "test", Addr: "127.0.0.1:0", Handler: http.NotFoundHandler(), Log: discard(), MaxConnections: 8, Proxies: c.proxies,
			})
			if err := s.Listen(); err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.Serve() }()
			var open []net.Conn
			for i := range c.places + 3 {
				conn, ok := get(t, s.Addr())
				if ok != (i < c.places) {
					t.Fatalf("connection %d: served %t", i+1, ok)
				}
				open = append(open, conn)
			}
			open[0].Close()
			testenv.Eventually(t, 10*time.Second, "room", func() bool {
				conn, ok := get(t, s.Addr())
				open = append(open, conn)
				return ok
			})
			for _, conn := range open {
				if conn != nil {
					conn.Close()
				}
			}
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// get asks on a new connection, which stays open, and reports whether it was answered.
func get(t *testing.T, addr string) (net.Conn, bool) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	var answer [12]byte
	_, err = io.ReadFull(conn, answer[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("neither answered nor reset")
	}
	return conn, strings.HasPrefix(string(answer[:]), "HTTP/1.1")
}

func TestDrainingTellsHandlers(t *testing.T) {
	started := make(chan struct{})
	s, _ := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-service.Draining(r.Context())
		_, _ = io.WriteString(w, "bye")
	}))
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + s.Addr())
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answered <- string(body)
	}()
	<-started
	s.BeginDrain()
	s.BeginDrain()
	if got := <-answered; got != "bye" {
		t.Error(got)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
