package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// The modes of the name server.
const (
	resolves int32 = iota // every name is this machine
	unknown               // no name exists
	silent                // no answer
)

// nameServerAddress is that of the test's name server while there is one. The resolver itself is set before all
// tests and never changed: lookups may outlive the test that began them.
var nameServerAddress atomic.Pointer[string]

// useNameServers makes the real resolver of the standard library ask the name server of the running test.
func useNameServers() {
	net.DefaultResolver = &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if of := nameServerAddress.Load(); of != nil {
				network, address = "udp", *of
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
}

// nameServer starts a name server that this process asks until the test ends.
func nameServer(t *testing.T) (mode *atomic.Int32) {
	t.Helper()
	mode = new(atomic.Int32)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := server.LocalAddr().String()
	nameServerAddress.Store(&address)
	t.Cleanup(func() {
		nameServerAddress.Store(nil)
		server.Close()
	})
	go func() {
		buf := make([]byte, 4096)
		for {
			n, client, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			if m := mode.Load(); m != silent {
				_, _ = server.WriteTo(resolved(buf[:n], m == resolves), client)
			}
		}
	}()
	return mode
}

// resolved returns the answer to a query: 127.0.0.1 for a known name's IPv4 address.
func resolved(query []byte, known bool) []byte {
	const header, typeA = 12, 1
	end := header
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the last label, type and class
	answer := append([]byte(nil), query[:end]...)
	answer[2] |= 0x80 // a response
	copy(answer[6:header], make([]byte, 6))
	if !known {
		answer[3] |= 3 // no such name
		return answer
	}
	if binary.BigEndian.Uint16(query[end-4:]) == typeA {
		answer[7] = 1
		answer = append(answer, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1)
	}
	return answer
}

func named(t *testing.T, raw, name string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = name + ":" + u.Port()
	return u.String()
}

// stopped stops a service, which must not take longer than its settings allow. It checks that the log is all
// JSON and says what to do about the name.
func stopped(t *testing.T, log *logBuffer, stop func() error, name string) {
	t.Helper()
	began := time.Now()
	_ = stop() // errors are fine: the connection to Postgres, say, could not be closed properly
	took := time.Since(began)
	t.Logf("stopped after %s", took.Round(10*time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("took %s to stop, may take 5s", took)
	}
	for line := range strings.Lines(log.String()) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Errorf("%q is not JSON", line)
		}
	}
	if !strings.Contains(log.String(), "the host name "+name+" does not resolve: correct the setting") {
		t.Errorf("the log does not say what to do about %s:\n%s", name, log)
	}
}

var failingNames = map[string]int32{"unknown": unknown, "silent": silent}

// Postgres has a host name that does not resolve when the service starts. The service waits, and starts once
// the name resolves.
func TestStartsWhenNamesResolve(t *testing.T) {
	for what, failing := range failingNames {
		t.Run(what, func(t *testing.T) {
			mode := nameServer(t)
			mode.Store(failing)
			env := environment(t, named(t, storetest.URL(t), "db.test."), "nats://nats.test.:4222")
			env["DRAIN_TIMEOUT"] = "4s"
			ended := func() { // stopped while it waits
				ctx, cancel := context.WithCancel(t.Context())
				log, done := &logBuffer{}, make(chan error, 1)
				go func() {
					done <- run(ctx, []string{"serve"}, func(name string) string { return env[name] }, log)
				}()
				testenv.Eventually(t, 20*time.Second, "a line about the name", func() bool {
					return strings.Contains(log.String(), "does not resolve")
				})
				stopped(t, log, func() error { cancel(); return <-done }, "db.test.")
			}
			ended()
			var wg sync.WaitGroup
			wg.Go(func() {
				<-time.After(time.Second) // it is waiting by now; if not, the name resolves at once
				mode.Store(resolves)
			})
			s := start(t, env)
			wg.Wait()
			signUp(t, s, "mina")
		})
	}
}

// The host names of NATS and of the mail server stop resolving, then that of Postgres, too. Signups work as
// long as they can, and the service stops in time.
func TestRunsWhileNamesDoNotResolve(t *testing.T) {
	for what, failing := range failingNames {
		t.Run(what, func(t *testing.T) {
			broker := testenv.NATS(t)
			mode := nameServer(t)
			proxy := testenv.NewProxy(t, storetest.URL(t))
			env := environment(t, named(t, proxy.URL, "db.test."), named(t, broker.URL, "nats.test."))
			env["SMTP_ADDR"], env["DRAIN_TIMEOUT"] = "mail.test.:25", "4s"
			s := start(t, env)
			testenv.Eventually(t, 20*time.Second, "NATS", func() bool {
				return strings.Contains(s.log.String(), "nats connected")
			})
			warm := &statuses{t: t}
			crowd(t, s, warm, "warm", 60) // opens all connections
			mode.Store(failing)
			broker.Stop()
			for i := range 20 {
				signUp(t, s, fmt.Sprint("mina", i))
			}
			testenv.Eventually(t, 8*time.Second, "a line about NATS", func() bool {
				return strings.Contains(s.log.String(), "nats.test. does not resolve")
			})
			proxy.Break()
			testenv.Eventually(t, 20*time.Second, "503", func() bool {
				c := &statuses{t: t}
				crowd(t, s, c, "otto", 20)
				status, _, _, _ := call(t, "GET", s.admin+"/readyz", "")
				return c.of(http.StatusServiceUnavailable) == 20 && status == http.StatusServiceUnavailable
			})
			testenv.Eventually(t, 20*time.Second, "a line about Postgres", func() bool {
				return strings.Contains(s.log.String(), "the host name db.test. does not resolve")
			})
			stopped(t, s.log, s.stop, "db.test.")
			s.stop = func() error { return nil } // connections that it could not close were reported already
		})
	}
}
