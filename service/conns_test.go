package service_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// capped is a server whose handler answers at once, except for /hold, which waits until the test releases it.
type capped struct {
	addr    string
	tls     bool
	began   chan struct{} // receives a value for each request that is held
	release func()
}

func startCapped(t *testing.T, most int, proxies []netip.Prefix, certificate *tls.Config) *capped {
	t.Helper()
	held := make(chan struct{})
	c := &capped{tls: certificate != nil, began: make(chan struct{}, most)}
	c.release = sync.OnceFunc(func() { close(held) })
	s := service.NewServer(service.ServerConfig{
		Name: "test", Addr: "127.0.0.1:0", Log: discard(), MaxConnections: most, Proxies: proxies, TLS: certificate,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hold" {
				c.began <- struct{}{}
				<-held
			}
		}),
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		c.release()
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // do not wait for what is open
		_ = s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c.addr = s.Addr()
	return c
}

// connect opens a connection from an address of this machine, and sends a text on it.
func (c *capped) connect(t *testing.T, from, send string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", c.addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if c.tls && send != "" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	_, _ = io.WriteString(conn, send)
	return conn
}

// answered reports whether a request on the connection gets its answer, rather than a reset.
func answered(t *testing.T, conn net.Conn) bool {
	t.Helper()
	if conn == nil {
		return false
	}
	var answer [12]byte
	_, err := io.ReadFull(conn, answer[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("neither answered nor reset")
	}
	return err == nil && strings.HasPrefix(string(answer[:]), "HTTP/1.1 200")
}

const (
	ask  = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	hold = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"
)

// One address may have requests on a quarter of the connections, a proxy on all of them. A client for which
// there is no place is refused at once, and a client that leaves makes room.
func TestConnectionsAreCapped(t *testing.T) {
	for name, c := range map[string]struct {
		proxies []netip.Prefix
		places  int
	}{
		"a client": {nil, 2},
		"a proxy":  {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			s := startCapped(t, 8, c.proxies, nil)
			var open []net.Conn
			for range c.places {
				open = append(open, s.connect(t, "127.0.0.1", hold))
				<-s.began
			}
			for i := range 3 {
				if answered(t, s.connect(t, "127.0.0.1", ask)) {
					t.Errorf("connection %d is served", c.places+i+1)
				}
			}
			s.release()
			if !answered(t, open[0]) {
				t.Error("a request in flight is not answered")
			}
			open[0].Close()
			testenv.Eventually(t, 10*time.Second, "room", func() bool {
				return answered(t, s.connect(t, "127.0.0.1", ask))
			})
		})
	}
}

// Four addresses of four networks hold every connection, in various ways. Newcomers are served all the same,
// and no request is dropped for them.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	pair, err := tls.LoadX509KeyPair(testenv.NewAuthority(t).Issue(t.TempDir(), "localhost"))
	if err != nil {
		t.Fatal(err)
	}
	certificate := &tls.Config{Certificates: []tls.Certificate{pair}}
	for name, c := range map[string]struct {
		send  string
		tls   *tls.Config
		most  int
		quick bool // answered before the next one connects
	}{
		"kept alive":                {send: ask, most: 64, quick: true},
		"silent":                    {most: 64},
		"half a header":             {send: ask[:len(ask)-2], most: 64},
		"kept alive over TLS":       {send: ask, most: 64, quick: true, tls: certificate},
		"no end of a TLS handshake": {most: 64, tls: certificate},
		"8,192 of them":             {send: ask, most: 8192, quick: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := startCapped(t, c.most, nil, c.tls)
			busy := s.connect(t, "127.0.1.1", hold)
			<-s.began
			for i := 1; i < c.most; i++ {
				conn := s.connect(t, fmt.Sprintf("127.0.%d.1", 1+i%4), c.send)
				if c.quick && !answered(t, conn) {
					t.Fatalf("connection %d is not served", i)
				}
			}
			for i := range 40 {
				if !answered(t, s.connect(t, fmt.Sprintf("127.1.%d.1", i), ask)) {
					t.Errorf("newcomer %d is not served", i+1)
				}
			}
			s.release()
			if !answered(t, busy) {
				t.Error("a request in flight was given up while connections were idle")
			}
		})
	}
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
