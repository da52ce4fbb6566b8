package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// NATS is a connection that never gives up on its server.
type NATS struct {
	*nats.Conn
	closed chan struct{}
}

// ConnectNATS returns at once, whether or not the server is there: the
// connection is made, and made again, for as long as it takes. Nothing is
// buffered while it is away (publishing fails at once), because what must not be
// lost is in Postgres. name is shown by the server. It fails only for a
// malformed url.
func ConnectNATS(url, name string, log *slog.Logger) (*NATS, error) {
	n := &NATS{closed: make(chan struct{})}
	var err error
	n.Conn, err = nats.Connect(url,
		nats.Name(name),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.Timeout(connectTimeout), nats.DrainTimeout(5*time.Second),
		// A paused server keeps its sockets open: only pings find out.
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(*nats.Conn) { log.Info("nats connected") }),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("nats reconnected") }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("nats disconnected", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("nats", "error", err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(n.closed) }),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	return n, nil
}

// Close sends what is pending, closes the connection and waits until that is
// done, or ctx ends. Without a server there is nothing to send.
func (n *NATS) Close(ctx context.Context) error {
	if err := n.Drain(); err != nil {
		if !errors.Is(err, nats.ErrConnectionReconnecting) && !errors.Is(err, nats.ErrConnectionClosed) {
			return fmt.Errorf("drain nats: %w", err)
		}
		n.Conn.Close()
	}
	select {
	case <-n.closed:
		return nil
	case <-ctx.Done():
		n.Conn.Close()
		return fmt.Errorf("close nats: %w", ctx.Err())
	}
}
