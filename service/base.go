package service

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/outboxotel"
	"github.com/signup-saga/signup-saga/outbox/outboxprom"
)

// Base is what a service is built on: its connections, and its process, to which it adds servers and workers.
// The process already has the relays of its lanes and a readiness check of its database.
type Base struct {
	*Process
	Pool     *pgxpool.Pool        // of its database
	NATS     *NATS                // never nil, connected or not
	Tracer   *Tracer              // nil unless tracing is on
	Registry *prometheus.Registry // what /metrics serves
	Lag      *Lag                 // of the consumers that were added
	Wake     func()               // wakes the relays; called after a commit with events

	external bool
}

// Serve is the serve subcommand. It waits until Postgres answers and has the program's schema, but not for NATS.
// Then it calls build, and runs the service until ctx ends.
func (p Program) Serve(
	ctx context.Context, databaseURL Secret, c Common, log *slog.Logger, build func(*Base) error,
) error {
	tracer, err := StartTracing(ctx, p.Name, log)
	if err != nil {
		return err
	}
	b := &Base{Tracer: tracer, Registry: prometheus.NewRegistry(), external: c.External(), Process: &Process{
		Log: log, DrainDelay: c.DrainDelay, DrainTimeout: c.DrainTimeout,
		Closers: []func(context.Context) error{tracer.Close},
	}}
	err = b.connect(ctx, p, databaseURL, c)
	if err == nil {
		err = build(b)
	}
	if err != nil {
		closeAll(b.Closers)
		return err
	}
	return b.Run(ctx)
}

// connect opens the connections, and adds what each service has. Closers run in an order in which nothing is
// lost: NATS, tracer, pool.
func (b *Base) connect(ctx context.Context, p Program, url Secret, c Common) (err error) {
	if b.Pool, err = p.database(ctx, url, c, b.Log); err != nil {
		return err
	}
	b.Closers = append(b.Closers, func(ctx context.Context) error { return ClosePool(ctx, b.Pool) })
	b.Health = NewHealth(map[string]func(context.Context) error{"postgres": Writable(b.Pool)})
	if b.NATS, err = ConnectNATS(c, p.Name, b.Log); err != nil {
		return err
	}
	b.Closers = append([]func(context.Context) error{b.NATS.Close}, b.Closers...)
	b.Registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if b.Lag, err = NewLag(b.NATS.Conn, b.Registry, b.Log); err != nil {
		return err
	}
	b.Add("lag of consumers", b.Lag.Run)
	return b.addRelays(p, c)
}

// addRelays adds a relay for each lane of the program.
func (b *Base) addRelays(p Program, c Common) error {
	var relays []*outbox.Relay
	f := newFault(c, b.Log)
	for _, lane := range p.lanes() {
		metrics, err := outboxprom.New(string(lane), b.Pool, b.Registry)
		if err != nil {
			return err
		}
		hooks := metrics.Hooks(outbox.Hooks{Fault: f.relay(string(lane))})
		if b.Tracer != nil {
			hooks = outboxotel.Hooks(b.Tracer.provider, hooks)
		}
		r, err := outbox.NewRelay(outbox.RelayConfig{
			Lane: string(lane), Pool: b.Pool, NATS: b.NATS.Conn, Stream: p.stream(lane, c), ExternalStream: b.external,
			Source: contract.Source(p.Producer), SubjectPrefix: contract.SubjectPrefix(lane),
			Spacing: spacing(lane), Log: b.Log, Hooks: hooks,
		})
		if err != nil {
			return err
		}
		relays = append(relays, r)
		b.Relays = append(b.Relays, Task{Name: "relay " + string(lane), Run: r.Run})
	}
	b.Wake = func() {
		for _, r := range relays {
			r.Wake()
		}
	}
	return nil
}

// Add adds a worker, see [Task].
func (b *Base) Add(name string, run func(ctx context.Context) error) {
	b.Workers = append(b.Workers, Task{Name: name, Run: run})
}

// Every adds a worker that calls fn at an interval, as [Loop] does.
func (b *Base) Every(name string, interval time.Duration, fn func(ctx context.Context) (more bool, err error)) {
	b.Workers = append(b.Workers, periodic(name, interval, b.Log, fn))
}

// Consume adds a worker that handles the messages of a consumer, see [Consume], and watches how far the consumer
// is behind.
func (b *Base) Consume(cfg ConsumerConfig, handle func(ctx context.Context, batch []Message) error) {
	cfg.External, cfg.Log, cfg.Tracer = b.external, b.Log, b.Tracer
	b.Lag.Watch(cfg.Stream, cfg.Durable)
	b.Add("consume "+cfg.Stream, func(ctx context.Context) error { return Consume(ctx, b.NATS.Conn, cfg, handle) })
}

// Listen adds a server, and binds its address.
func (b *Base) Listen(cfg ServerConfig) error {
	cfg.Log, cfg.Tracer = b.Log, b.Tracer
	s := NewServer(cfg)
	b.Servers = append(b.Servers, s)
	return s.Listen()
}
