package welcome

import (
	"context"
	"net"
	"time"
)

// HurryUp shortens all time-outs of a mailer but that at the end of DATA.
func (m *Mailer) HurryUp(command, end time.Duration) {
	m.patience = timeouts{command: command, end: end, stop: command, quit: command}
}

// Quiet returns how long the mail server is left alone from now on, and ends that time.
func (m *Mailer) Quiet() time.Duration {
	d := time.Until(m.quiet)
	m.quiet = time.Time{}
	return d
}

// RetryAfter is retryAfter.
func (m *Mailer) RetryAfter(n int) time.Duration { return m.retryAfter(n) }

// Pretend has a mailer take its server for a machine at ip.
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
