// Package pgproxy puts a proxy that knows the protocol of Postgres between a service and its database.
package pgproxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Proxy is a proxy between a service and Postgres. It understands just enough of the protocol to count round
// trips (Sync messages) and to lose one answer. Its fields may be set at any time.
type Proxy struct {
	URL        string // of the database, through the proxy
	Syncs      atomic.Int64
	Lost       atomic.Int64 // answers lost
	Refuse     atomic.Bool  // refuse connections, as if Postgres were stopped
	Pause      atomic.Bool  // as if Postgres were frozen: connections open, nothing passes
	LoseAnswer atomic.Value // name of a query, or "commit": run it, then break the connection without answering

	target   [2]string // network, address
	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool
}

// New returns a proxy in front of a database. It is closed when the test ends.
func New(t testing.TB, databaseURL string) *Proxy {
	t.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{conns: map[net.Conn]bool{}}
	p.target[0], p.target[1] = pgconn.NetworkAddress(cfg.Host, cfg.Port)
	p.LoseAnswer.Store("")
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Host: p.listener.Addr().String(),
		Path: cfg.Database, RawQuery: "sslmode=disable&pool_max_conns=8&connect_timeout=2"}
	p.URL = u.String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := p.listener.Accept()
			if err != nil {
				return
			}
			if p.Refuse.Load() {
				_ = client.Close()
				continue
			}
			wg.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.BreakAll()
		wg.Wait()
	})
	return p
}

func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial(p.target[0], p.target[1])
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	closeBoth := func() {
		_, _ = client.Close(), server.Close()
		p.mu.Lock()
		delete(p.conns, client)
		delete(p.conns, server)
		p.mu.Unlock()
	}
	defer closeBoth()
	var losing atomic.Bool
	go func() { defer closeBoth(); p.requests(client, server, &losing) }()
	for {
		raw, kind, _, err := readMessage(server, false)
		if err != nil {
			return
		}
		if losing.Load() {
			if kind == 'Z' { // ReadyForQuery: the query is done
				p.Lost.Add(1)
				return
			}
			continue
		}
		if p.Pause.Load() {
			continue
		}
		if _, err := client.Write(raw); err != nil {
			return
		}
	}
}

// requests forwards the client's messages, and watches for the query whose answer is to be lost.
func (p *Proxy) requests(client, server net.Conn, losing *atomic.Bool) {
	prepared := map[string][]byte{} // statement name to SQL
	for first := true; ; first = false {
		raw, kind, body, err := readMessage(client, first)
		if err != nil || p.Pause.Load() {
			if p.Pause.Load() {
				_, _ = io.Copy(io.Discard, client)
			}
			return
		}
		want, found := p.LoseAnswer.Load().(string), false
		switch kind {
		case 'P':
			name, rest, _ := bytes.Cut(body, []byte{0})
			prepared[string(name)] = rest
		case 'B':
			_, rest, _ := bytes.Cut(body, []byte{0})
			name, _, _ := bytes.Cut(rest, []byte{0})
			found = bytes.Contains(prepared[string(name)], []byte("-- name: "+want+"\n"))
		case 'Q':
			found = string(bytes.TrimRight(body, "\x00")) == want
		case 'S':
			p.Syncs.Add(1)
		}
		if found && want != "" {
			losing.Store(true)
			p.LoseAnswer.Store("")
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// BreakAll breaks every connection.
func (p *Proxy) BreakAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func readMessage(r io.Reader, startup bool) (raw []byte, kind byte, body []byte, err error) {
	head := make([]byte, 5)
	if startup {
		head = head[:4]
	}
	if _, err = io.ReadFull(r, head); err != nil {
		return nil, 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[len(head)-4:])
	body = make([]byte, size-4)
	if _, err = io.ReadFull(r, body); err != nil {
		return nil, 0, nil, err
	}
	if !startup {
		kind = head[0]
	}
	return append(head, body...), kind, body, nil
}
