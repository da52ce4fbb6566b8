package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// linkFault is what a proxy does to its connections.
type linkFault string

const (
	passing   linkFault = ""
	latency   linkFault = "latency"    // everything arrives late
	resetting linkFault = "reset"      // connections are reset, new ones too
	halfOpen  linkFault = "half-open"  // connections stay open, but nothing arrives
	slowClose linkFault = "slow close" // the far side has closed, but the near side does not see it
	answering linkFault = "answerless" // requests arrive, responses do not: the connection is reset
)

var linkFaults = []linkFault{latency, resetting, halfOpen, slowClose}

// lateness is the delay of everything under latency.
const lateness = 150 * time.Millisecond

// proxy is a TCP proxy on a link that can be told to misbehave. It is safe for concurrent use.
type proxy struct {
	listener *net.TCPListener
	target   string

	mu      sync.Mutex
	fault   linkFault
	changed chan struct{} // closed at the next change of fault
	links   map[*pipe]bool
	fired   map[linkFault]int // pieces of data or connections that met the fault
	lost    strings.Builder   // responses that were dropped
}

// pipe is a client's connection and the matching connection to the target.
type pipe struct {
	client, server *net.TCPConn
	torn           bool // data was lost: it must not be used again when the fault ends
}

func startProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		listener: listener.(*net.TCPListener), target: target, changed: make(chan struct{}),
		links: map[*pipe]bool{}, fired: map[linkFault]int{},
	}
	go func() {
		for {
			client, err := p.listener.AcceptTCP()
			if err != nil {
				return // closed by the end of the test
			}
			go p.serve(client)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		p.set(resetting)
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// swallowed returns the responses that the clients did not receive.
func (p *proxy) swallowed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost.String()
}

// met returns how often data or connections have met a fault so far.
func (p *proxy) met(fault linkFault) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fired[fault]
}

// set changes the fault from now on, also for existing connections.
func (p *proxy) set(fault linkFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
	close(p.changed)
	p.changed = make(chan struct{})
	for l := range p.links {
		switch {
		case fault == resetting:
			p.fired[fault]++
			l.reset()
		case fault == slowClose:
			l.torn = true
			_ = l.server.Close()
		case l.torn:
			l.reset()
		}
	}
}

func (p *proxy) serve(client *net.TCPConn) {
	server, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &pipe{client: client, server: server.(*net.TCPConn)}
	p.mu.Lock()
	p.links[l] = true
	if p.fault == resetting {
		p.fired[resetting]++
		l.reset()
	}
	p.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(l, l.client, l.server, false) })
	pumps.Go(func() { p.pump(l, l.server, l.client, true) })
	pumps.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pump forwards data in one direction until the connection ends or breaks.
func (p *proxy) pump(l *pipe, from io.Reader, to io.Writer, answers bool) {
	defer l.close()
	piece := make([]byte, 16<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 && !p.pass(l, to, piece[:n], answers) {
			return
		}
		if err != nil {
			if answers {
				p.closed()
			}
			return
		}
	}
}

// pass forwards a piece of data, subject to the fault, and reports whether the connection continues.
func (p *proxy) pass(l *pipe, to io.Writer, piece []byte, answers bool) bool {
	p.mu.Lock()
	fault, torn := p.fault, l.torn
	switch {
	case fault == halfOpen, fault == slowClose && torn:
		p.fired[halfOpen] += count(fault == halfOpen)
		l.torn = true
		p.mu.Unlock()
		return true
	case fault == answering && answers:
		p.fired[fault]++
		p.lost.Write(piece)
		l.reset()
		p.mu.Unlock()
		return false
	case fault == latency:
		p.fired[fault]++
	}
	changed := p.changed
	p.mu.Unlock()
	if fault == latency {
		select {
		case <-time.After(lateness):
		case <-changed:
		}
	}
	_, err := to.Write(piece)
	return err == nil
}

// closed delays the end of a connection while closes are slow.
func (p *proxy) closed() {
	p.mu.Lock()
	slow, changed := p.fault == slowClose, p.changed
	p.fired[slowClose] += count(slow)
	p.mu.Unlock()
	if slow {
		<-changed
	}
}

func (l *pipe) reset() {
	_ = l.client.SetLinger(0)
	l.close()
}

func (l *pipe) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func contains(text string, parts ...string) bool {
	for _, part := range parts {
		if part == "" || !strings.Contains(text, part) {
			return false
		}
	}
	return true
}
