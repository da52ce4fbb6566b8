package service

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// acceptQuiet is how long nobody may arrive before the accept queue counts as empty: long enough for the
	// handshakes in progress to end.
	acceptQuiet = 100 * time.Millisecond
	// acceptDrain bounds the draining of the accept queue as a whole, for
	// platforms where new handshakes cannot be refused meanwhile.
	acceptDrain = time.Second
	// firstRequest is how long Shutdown waits for the first request of a client that has connected.
	firstRequest = 2 * time.Second
	// maxConnections is the default for how many connections a listener holds at a time: each costs some 20 KiB
	// and a file descriptor.
	maxConnections = 8192
	// maxRequests is how many requests one connection of HTTP/2 carries at a time.
	maxRequests = 100
)

// errDrained ends http.Server.Serve when the accept queue is empty.
var errDrained = errors.New("listener drained")

// ServerConfig configures a [Server].
type ServerConfig struct {
	Name    string       // for logs: "public", "admin"
	Addr    string       // "127.0.0.1:8080"; port 0 takes a free one
	Handler http.Handler // required
	Log     *slog.Logger // required
	TLS     *tls.Config  // nil for plain HTTP
	// MaxConnections is how many connections may be open at a time, shared out as by [ConnLimiter]; 0 means 8192.
	MaxConnections int
	// Proxies are trusted to say for whom they forward. Since they have many clients, each proxy may use all of
	// the connections.
	Proxies Proxies
	// Tracer begins a span for each request that [Adapt] answers; nil for none.
	Tracer *Tracer
	// Public means that strangers may connect. They do not decide what is traced.
	Public bool
}

// Server is an HTTP server that stops without failing a request. Closing a listening socket resets every
// connection that the kernel has accepted and the program has not: clients see "connection reset" for requests
// that may or may not have been carried out. Shutdown therefore first makes the kernel drop new handshakes
// (Linux; see listener_linux.go), then serves what is in the accept queue, and only then closes the socket.
// Clients that come later are refused, and can safely retry elsewhere.
//
// A request can still be lost if the client sends it on a kept-alive connection at the very moment that the
// connection is closed: HTTP/1.1 cannot avoid that. BeginDrain therefore comes DRAIN_DELAY earlier: it adds
// Connection: close to every response, and leaves idle connections open meanwhile. HTTP/2 can avoid it: such a
// response, and Shutdown, send GOAWAY, which names the last request that is served, and clients repeat later
// ones elsewhere.
//
// When all [ServerConfig.MaxConnections] are open, a newcomer takes the slot of a connection that has no
// request with a handler: kept alive, still sending its header, or silent since it connected. If all are busy,
// see [ConnLimiter]. A connection for which there is no slot is reset at once. In the accept queue it would look
// open to load balancers, time out, and evade the limits of its network. Each server counts separately:
// whatever happens to the public listener, probes reach the other one.
type Server struct {
	cfg      ServerConfig
	http     http.Server
	listener *drainListener
	served   chan struct{}

	draining   chan struct{} // closed by BeginDrain
	beginDrain func()

	mu    sync.Mutex
	conns map[net.Conn]http.ConnState // open ones, for Shutdown
}

// NewServer returns a server that does nothing yet.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{cfg: cfg, served: make(chan struct{}), draining: make(chan struct{}),
		conns: make(map[net.Conn]http.ConnState)}
	s.beginDrain = sync.OnceFunc(func() { close(s.draining) })
	s.http = http.Server{
		Handler:           cfg.Proxies.handler(cfg.Log, http.HandlerFunc(s.serveHTTP)),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ConnState:         s.track,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, slotKey{}, slotOf(c))
		},
		BaseContext: func(net.Listener) context.Context {
			ctx := context.WithValue(context.Background(), drainKey{}, (<-chan struct{})(s.draining))
			if cfg.Tracer != nil {
				ctx = context.WithValue(ctx, serverKey{}, &s.cfg)
			}
			return ctx
		},
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxRequests},
	}
	return s
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if slot, ok := r.Context().Value(slotKey{}).(*Slot); ok && slot != nil {
		slot.SetBusy(true) // until track sees that the response is written
	}
	select {
	case <-s.draining:
		w.Header().Set("Connection", "close")
	default:
	}
	w.Header().Set("Cache-Control", "no-store") // the handler may change it
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if overHTTPS(r) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
	}
	if p := refusal(w, r); p != nil {
		WriteProblem(w, p)
		return
	}
	normalize(r.URL)
	s.cfg.Handler.ServeHTTP(w, r)
}

// Listen binds the address.
func (s *Server) Listen() error {
	// Multipath TCP, Go's default for listeners, does not support socket filters.
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.cfg.Name, err)
	}
	s.listener = &drainListener{
		TCPListener: l.(*net.TCPListener), proxies: s.cfg.Proxies,
		slots: NewConnLimiter(cmp.Or(s.cfg.MaxConnections, maxConnections)),
	}
	s.cfg.Log.Info("listening", "name", s.cfg.Name, "addr", s.Addr())
	return nil
}

// Addr returns the bound address, after Listen.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Serve serves until Shutdown (nil) or until the listener fails.
func (s *Server) Serve() error {
	defer close(s.served)
	var l net.Listener = s.listener
	if s.cfg.TLS != nil {
		l = tls.NewListener(l, s.cfg.TLS)
	}
	err := s.http.Serve(l)
	if errors.Is(err, errDrained) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", s.cfg.Name, err)
}

// BeginDrain makes every response from now on close its connection, and makes responses without an end come to
// one, see [Draining].
func (s *Server) BeginDrain() { s.beginDrain() }

type drainKey struct{}

// Draining returns a channel that is closed when a [Server] begins to drain. ctx is the context of a request to
// that server. Handlers that would run for long must end then. The channel is nil if there is no such server.
func Draining(ctx context.Context) <-chan struct{} {
	draining, _ := ctx.Value(drainKey{}).(<-chan struct{})
	return draining
}

// Shutdown stops accepting connections, serves those that were made, waits for requests in flight, and closes.
// When ctx ends first, it closes what is left and returns the context's error. Serve must have been called.
func (s *Server) Shutdown(ctx context.Context) error {
	s.BeginDrain()
	if err := s.listener.drain(); err != nil {
		s.cfg.Log.Debug("new handshakes cannot be held back", "error", err)
	}
	select {
	case <-s.served:
	case <-ctx.Done():
	}
	s.awaitRequests(ctx)
	if err := s.http.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut down %s: %w", s.cfg.Name, errors.Join(err, s.http.Close()))
	}
	return nil
}

func (s *Server) track(c net.Conn, state http.ConnState) {
	if slot := slotOf(c); slot != nil && state == http.StateIdle {
		slot.SetBusy(false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(s.conns, c)
	} else {
		s.conns[c] = state
	}
}

// awaitRequests waits until no request is in flight or about to arrive. http.Server.Shutdown does not wait for
// the latter: it closes connections whose first request arrives after it was called, even if they were accepted
// long before.
func (s *Server) awaitRequests(ctx context.Context) {
	deadline := time.Now().Add(firstRequest)
	for ctx.Err() == nil && s.busy(time.Now().Before(deadline)) {
		pause(ctx, 5*time.Millisecond)
	}
}

func (s *Server) busy(countNew bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range s.conns {
		if state == http.StateActive || (countNew && state == http.StateNew) {
			return true
		}
	}
	return false
}

// drainListener accepts as usual until drain is called, and then until nobody has arrived for acceptQuiet. It
// resets connections for which there is no slot.
type drainListener struct {
	*net.TCPListener
	drainUntil atomic.Pointer[time.Time]
	slots      *ConnLimiter
	proxies    Proxies
}

func (l *drainListener) drain() error {
	err := refuseHandshakes(l.TCPListener)
	until := time.Now().Add(acceptDrain)
	l.drainUntil.Store(&until)
	return errors.Join(err, l.SetDeadline(time.Now().Add(acceptQuiet)))
}

// Accept implements net.Listener. It returns errDrained when draining is done.
func (l *drainListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.accept()
		if err != nil {
			return nil, err
		}
		if slot, grant := l.slots.Acquire(l.client(conn), func() { _ = conn.Close() }); grant == Granted {
			return &slotConn{TCPConn: conn, slot: slot}, nil
		}
		_ = conn.SetLinger(0) // reset the connection: the kernel keeps nothing of it
		_ = conn.Close()
	}
}

func (l *drainListener) accept() (*net.TCPConn, error) {
	conn, err := l.AcceptTCP()
	until := l.drainUntil.Load()
	if until == nil {
		return conn, err
	}
	if err != nil {
		return nil, errDrained
	}
	next := time.Now().Add(acceptQuiet)
	if next.After(*until) {
		next = *until
	}
	return conn, l.SetDeadline(next)
}

// client returns the address whose share a connection counts for: the peer's, or the zero address, which has no
// share, if the peer is a proxy.
func (l *drainListener) client(conn *net.TCPConn) netip.Addr {
	address, _ := conn.RemoteAddr().(*net.TCPAddr)
	peer := address.AddrPort().Addr().Unmap().WithZone("")
	if l.proxies.Contains(peer) {
		return netip.Addr{}
	}
	return peer
}

type slotKey struct{}

// slotOf returns the slot of a connection that the listener accepted, TLS or not.
func slotOf(c net.Conn) *Slot {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	with, ok := c.(*slotConn)
	if !ok {
		return nil
	}
	return with.slot
}

// slotConn gives back its slot when it is closed.
type slotConn struct {
	*net.TCPConn
	slot *Slot
}

// Close implements net.Conn.
func (c *slotConn) Close() error {
	defer c.slot.Release()
	return c.TCPConn.Close()
}
