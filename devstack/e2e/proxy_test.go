package e2e

import (
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// proxy passes requests on and swallows the answers: it closes the connection when the first bytes of one arrive.
type proxy struct {
	listener net.Listener
	mu       sync.Mutex
	answers  strings.Builder
}

func startProxy(t testing.TB, target string) *proxy {
	t.Helper()
	address, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed by the end of the test
			}
			go p.serve(client, address.Host)
		}
	}()
	return p
}

func (p *proxy) url() string { return "http://" + p.listener.Addr().String() }

// swallowed is what the clients did not get to see.
func (p *proxy) swallowed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers.String()
}

func (p *proxy) serve(client net.Conn, target string) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(server, client) }() // ends with either connection
	answer := make([]byte, 16<<10)
	n, _ := server.Read(answer)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers.Write(answer[:n])
}

func contains(text string, parts ...string) bool {
	for _, part := range parts {
		if part == "" || !strings.Contains(text, part) {
			return false
		}
	}
	return true
}
