package testenv

import (
	"math"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy is a TCP proxy in front of a PostgreSQL server that can go deaf: its connections stay open, but nothing passes
// through them, as when a network loses packets. Its methods are safe for concurrent use.
type Proxy struct {
	URL string // of the database, through the proxy

	listener net.Listener
	done     chan struct{}
	mu       sync.Mutex
	target   string
	made     int // number of connections so far
	deaf     int // connections with a lower number are deaf
	conns    []net.Conn
}

// NewProxy returns a proxy in front of a database. It ends with the test.
func NewProxy(t testing.TB, databaseURL string) *Proxy {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{done: make(chan struct{}), target: u.Host}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	p.URL = u.String()
	t.Cleanup(p.Cut)
	go p.serve()
	return p
}

// Point makes new connections lead to another database. It does nothing if the URL is invalid.
func (p *Proxy) Point(databaseURL string) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return // keep the old target
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = u.Host
}

// Deafen makes all connections deaf, present and future.
func (p *Proxy) Deafen() { p.below(func() int { return math.MaxInt }) }

// Reopen lets new connections through. Existing connections stay deaf if they are.
func (p *Proxy) Reopen() { p.below(func() int { return p.made }) }

func (p *Proxy) below(n func() int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = n()
}

// Cut closes all connections and the listener.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return
	default:
	}
	close(p.done)
	_ = p.listener.Close()
	p.closeAll()
}

// Break closes all connections.
func (p *Proxy) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeAll()
}

func (p *Proxy) closeAll() {
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		behind, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		n := p.made
		p.made++
		p.conns = append(p.conns, client, behind)
		p.mu.Unlock()
		go p.forward(n, behind, client)
		go p.forward(n, client, behind)
	}
}

// forward copies what connection n sends until the connection is deaf. Then it passes nothing and keeps both ends open.
func (p *Proxy) forward(n int, to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		size, err := from.Read(buf)
		p.mu.Lock()
		deaf := n < p.deaf
		p.mu.Unlock()
		if deaf {
			<-p.done
			return
		}
		if size > 0 {
			if _, err := to.Write(buf[:size]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
