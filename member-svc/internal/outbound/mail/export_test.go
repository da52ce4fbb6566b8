package mail

import (
	"context"
	"net"
	"time"
)

// HurryUp shortens the timeouts of a mailer: end is the one after the end of DATA, command is all others.
func (m *Mailer) HurryUp(command, end time.Duration) {
	m.patience = timeouts{command: command, end: end, stop: command, quit: command}
}

// Quiet returns how long the pause before the next conversation lasts, and ends it.
func (m *Mailer) Quiet() time.Duration {
	d := time.Until(m.quiet)
	m.quiet = time.Time{}
	return d
}

// RetryAfter is retryAfter.
func (m *Mailer) RetryAfter(n int) time.Duration { return m.retryAfter(n) }

// Pretend makes a mailer believe that its server is a machine at ip.
func (m *Mailer) Pretend(ip string) {
	m.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return elsewhere{conn, &net.TCPAddr{IP: net.ParseIP(ip)}}, err
	}
}

type elsewhere struct {
	net.Conn
	peer net.Addr
}

func (e elsewhere) RemoteAddr() net.Addr { return e.peer }
