package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/signup-saga/signup-saga/outbox"
)

// NATS is a connection that never gives up on its server.
type NATS struct {
	*nats.Conn
	closed chan struct{}
}

// ConnectNATS returns at once, whether or not the server is there: it connects, and reconnects, for as long as
// it takes. Nothing is buffered while the server is away, and publishing fails at once, because everything that
// must not be lost is in Postgres. The server shows name. Replies arrive on subjects below _INBOX.name, so that
// the server can keep the replies of one service from the others. The user and password of a URL from a file,
// and the TLS files, are re-read for each connection. ConnectNATS fails only if the configuration is malformed.
func ConnectNATS(c Common, name string, log *slog.Logger) (*NATS, error) {
	n := &NATS{closed: make(chan struct{})}
	servers, files := c.natsFiles()
	failures := &Failures{Task: "connect to nats", Log: log}
	refusals := &Failures{Task: "use nats", Message: "refused by nats", Log: log} // a wrong permission: many per second
	var err error
	n.Conn, err = nats.Connect(servers, append(files,
		nats.Name(name), nats.CustomInboxPrefix("_INBOX."+name),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.Timeout(connectTimeout), nats.DrainTimeout(5*time.Second),
		// The dialer resolves names within its timeout. The library itself would wait for a silent name server,
		// and block everything that uses the connection.
		nats.SkipHostLookup(),
		// A paused server keeps its sockets open: only pings detect it.
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(*nats.Conn) { log.Info("nats connected"); failures.Recovered() }),
		nats.ReconnectHandler(func(*nats.Conn) {
			log.Info("nats reconnected")
			failures.Recovered()
			refusals.Recovered()
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			failures.Add(context.Background(), outbox.Explain(err))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("nats disconnected", "error", outbox.Explain(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			refusals.Add(context.Background(), outbox.Explain(err))
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(n.closed) }),
	)...)
	var malformed *url.Error // its text shows the password
	if errors.As(err, &malformed) {
		err = malformed.Err
	}
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	return n, nil
}

// natsFiles returns the servers, and the options for credentials and TLS that come from files.
func (c Common) natsFiles() (servers string, options []nats.Option) {
	servers = c.NATSURL.Reveal()
	if plain, user := withoutUser(servers); c.NATSURL.file != "" && user != nil {
		servers = plain
		options = append(options, nats.UserInfoHandler(func() (string, string) {
			_, user := withoutUser(c.NATSURL.Current())
			password, _ := user.Password()
			return user.Username(), password
		}))
	}
	if c.NATSCAFile != "" {
		options = append(options, nats.RootCAs(c.NATSCAFile))
	}
	if c.NATSCertFile != "" {
		options = append(options, nats.ClientCert(c.NATSCertFile, c.NATSKeyFile))
	}
	return servers, options
}

// withoutUser removes user and password from a list of URLs, and returns those of the first one. If that has no
// password, it returns the list as it is and a nil user.
func withoutUser(list string) (servers string, user *url.Userinfo) {
	var plain []string
	for server := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(strings.TrimSpace(server))
		if err != nil {
			return list, nil
		}
		if len(plain) == 0 {
			user = u.User
		}
		u.User = nil
		plain = append(plain, u.String())
	}
	if _, has := user.Password(); !has {
		return list, nil
	}
	return strings.Join(plain, ","), user
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
