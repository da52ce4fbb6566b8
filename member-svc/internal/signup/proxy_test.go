package signup_test

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

// proxy stands between the service and Postgres. It understands just enough of the
// protocol to count round trips (Sync messages) and to lose one answer.
type proxy struct {
	url        string
	target     [2]string // network, address
	syncs      atomic.Int64
	lost       atomic.Int64
	refuse     atomic.Bool  // as if Postgres were stopped
	pause      atomic.Bool  // as if it were frozen: connections open, nothing passes
	loseAnswer atomic.Value // name of a query: run it, then break the connection instead of answering

	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool
}

func newProxy(t *testing.T, databaseURL string) *proxy {
	t.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{conns: map[net.Conn]bool{}}
	p.target[0], p.target[1] = pgNetwork(cfg.Host, cfg.Port)
	p.loseAnswer.Store("")
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Host: p.listener.Addr().String(), Path: cfg.Database, RawQuery: "sslmode=disable&pool_max_conns=8&connect_timeout=2"}
	p.url = u.String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := p.listener.Accept()
			if err != nil {
				return
			}
			if p.refuse.Load() {
				_ = client.Close()
				continue
			}
			wg.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.breakAll(true)
		wg.Wait()
	})
	return p
}

func (p *proxy) serve(client net.Conn) {
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
	prepared := map[string]string{} // statement name to SQL
	go func() {
		defer closeBoth()
		for first := true; ; first = false {
			raw, kind, body, err := readMessage(client, first)
			if err != nil || p.pause.Load() {
				if p.pause.Load() {
					_, _ = io.Copy(io.Discard, client)
				}
				return
			}
			switch kind {
			case 'P':
				name, rest, _ := bytes.Cut(body, []byte{0})
				prepared[string(name)] = string(rest)
			case 'B':
				_, rest, _ := bytes.Cut(body, []byte{0})
				name, _, _ := bytes.Cut(rest, []byte{0})
				if want := p.loseAnswer.Load().(string); want != "" && bytes.Contains([]byte(prepared[string(name)]), []byte("-- name: "+want+"\n")) {
					losing.Store(true)
					p.loseAnswer.Store("")
				}
			case 'S':
				p.syncs.Add(1)
			}
			if _, err := server.Write(raw); err != nil {
				return
			}
		}
	}()
	for {
		raw, kind, _, err := readMessage(server, false)
		if err != nil {
			return
		}
		if losing.Load() {
			if kind == 'Z' { // ReadyForQuery: the transaction is over
				p.lost.Add(1)
				return
			}
			continue
		}
		if p.pause.Load() {
			continue
		}
		if _, err := client.Write(raw); err != nil {
			return
		}
	}
}

// breakAll breaks every connection, if really.
func (p *proxy) breakAll(really bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if really {
			_ = c.Close()
		}
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

func pgNetwork(host string, port uint16) (string, string) {
	return pgconn.NetworkAddress(host, port)
}
