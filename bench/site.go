package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/outbox"
)

const (
	lane        = "essential"
	eventType   = "storage.provision"
	source      = "/bench"
	payloadSize = 300
)

// checkpointSQL writes everything to disk, so that no run pays for the run before it.
const checkpointSQL = "-- name: checkpoint\nCHECKPOINT"

// limitsSQL makes the tables of the limits, which the product does not have.
//
//go:embed limits.sql
var limitsSQL string

// site is a new database and a new stream for one run.
type site struct {
	broker  string // URL
	admin   *pgxpool.Pool
	name    string        // of the database and the stream
	url     string        // of the database
	clients *pgxpool.Pool // for the writers
	backend *pgxpool.Pool // for the relay
	nc      *nats.Conn
	js      jetstream.JetStream

	next atomic.Int64 // number of the next event
}

var sites atomic.Int64

// newSite makes a database with the tables of the product, and a stream.
func (b *bench) newSite(ctx context.Context) (s *site, err error) {
	s = &site{broker: b.servers.nats.url, admin: b.admin, name: fmt.Sprintf("bench_%d", sites.Add(1))}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if _, err := b.admin.Exec(ctx, "-- name: createDatabase\nCREATE DATABASE "+s.name+
		" TEMPLATE "+b.template); err != nil {
		return s, err
	}
	if s.url, err = b.databaseURL(s.name); err != nil {
		return s, err
	}
	if s.clients, err = newPool(ctx, s.url, connections); err != nil {
		return s, err
	}
	if err := connectAll(ctx, s.clients, connections); err != nil {
		return s, err
	}
	if s.backend, err = newPool(ctx, s.url, 32); err != nil {
		return s, err
	}
	if _, err := b.admin.Exec(ctx, checkpointSQL); err != nil {
		return s, err
	}
	if s.nc, s.js, err = connect(s.broker); err != nil {
		return s, err
	}
	_, err = s.js.CreateStream(ctx, s.stream())
	return s, err
}

// makeTemplate makes the database that sites are copies of.
func (b *bench) makeTemplate(ctx context.Context) error {
	b.template = fmt.Sprintf("bench_template_%d", sites.Add(1))
	if _, err := b.admin.Exec(ctx, "-- name: createDatabase\nCREATE DATABASE "+b.template+
		" TEMPLATE template0"); err != nil {
		return err
	}
	at, err := b.databaseURL(b.template)
	if err != nil {
		return err
	}
	return b.migrate(ctx, at)
}

// migrate makes the tables of both services with their own migrate, those of the Storage service in a schema of that
// name, and the tables of the limits.
func (b *bench) migrate(ctx context.Context, at string) error {
	conn, err := pgx.Connect(ctx, at)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, limitsSQL, pgx.QueryExecModeSimpleProtocol)
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	provider := filepath.Join(b.servers.dir, "unused")
	for name, variables := range map[string][]string{
		"member-svc": {"MEMBER_DATABASE_URL=" + at},
		"storage-svc": {"STORAGE_DATABASE_URL=" + at + "&search_path=storage", "PROVIDER_DIR=" + provider,
			"PROVIDER_LEDGER=" + provider + ".ledger"},
	} {
		cmd := exec.CommandContext(ctx, filepath.Join(b.bin, name), "migrate")
		cmd.Env = append(append(os.Environ(), "NATS_URL="+b.servers.nats.url), variables...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s migrate: %w\n%s", name, err, out)
		}
	}
	return nil
}

// databaseURL returns the URL of a database on the server of all rows.
func (b *bench) databaseURL(name string) (string, error) {
	u, err := url.Parse(b.servers.postgres.url)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

func newPool(ctx context.Context, url string, size int32) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	c.MaxConns = size
	return pgxpool.NewWithConfig(ctx, c)
}

// connectAll opens all connections, so that no run waits for connections.
func connectAll(ctx context.Context, pool *pgxpool.Pool, n int) error {
	conns := make([]*pgxpool.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Release()
		}
	}()
	for range n {
		c, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	return nil
}

func connect(url string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	return nc, js, err
}

func (s *site) stream() jetstream.StreamConfig {
	return outbox.StreamConfig(s.name, []string{s.name + ".>"}, 1)
}

// subject returns the subject of all events of the run.
func (s *site) subject() string { return s.name + "." + eventType }

// close drops the database and the stream.
func (s *site) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	if s.js != nil {
		errs = append(errs, s.js.DeleteStream(ctx, s.name))
	}
	if s.nc != nil {
		s.nc.Close()
	}
	for _, p := range []*pgxpool.Pool{s.clients, s.backend} {
		if p != nil {
			p.Close()
		}
	}
	_, err := s.admin.Exec(ctx, "-- name: dropDatabase\nDROP DATABASE IF EXISTS "+s.name+" WITH (FORCE)")
	return errors.Join(append(errs, err)...)
}

// take reserves the numbers of n new events and returns the first.
func (s *site) take(n int) int { return int(s.next.Add(int64(n))) - n }

// appended returns how many events the run has appended so far.
func (s *site) appended() int { return int(s.next.Load()) }

// stored returns how many messages the stream has stored so far.
func (s *site) stored(ctx context.Context) (int, error) {
	st, err := s.js.Stream(ctx, s.name)
	if err != nil {
		return 0, err
	}
	return int(st.CachedInfo().State.LastSeq), nil
}

// errStalled ends a wait for something that makes no more progress.
var errStalled = errors.New("no progress for 20 s")

// drained waits until the stream has stored n messages.
func (s *site) drained(ctx context.Context, n int) error {
	return progress(ctx, n, s.stored)
}

// progress waits until count has reached n, as long as it keeps growing. It polls rarely at first and often near
// the end, because polling costs the server something too.
func progress(ctx context.Context, n int, count func(context.Context) (int, error)) error {
	const patience, often, rarely = 20 * time.Second, 5 * time.Millisecond, 250 * time.Millisecond
	began := time.Now()
	last, grew := 0, began
	for {
		now, err := count(ctx)
		switch {
		case err != nil:
			return err
		case now >= n:
			return nil
		case now > last:
			last, grew = now, time.Now()
		case time.Since(grew) > patience:
			return fmt.Errorf("%d of %d events: %w", now, n, errStalled)
		}
		wait := often
		if now > 0 {
			rest := time.Duration(float64(time.Since(began)) / float64(now) * float64(n-now))
			wait = min(max(rest/2, often), rarely)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// audit reads the whole stream and fails unless it holds each event of the run once.
func (s *site) audit(ctx context.Context) error {
	l := new(ledger)
	total, err := s.stored(ctx)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	finish := sync.OnceFunc(func() { close(done) })
	stop, err := s.consume(ctx, func(m jetstream.Msg, id string) {
		l.add(id)
		if meta, err := m.Metadata(); err == nil && meta.Sequence.Stream >= uint64(total) {
			finish()
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	if total > 0 {
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			return fmt.Errorf("the audit saw only %d events of %d messages", l.count(), total)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return l.check(s.appended())
}

// consume calls f for every message of the stream from the first one on, on its own connection.
func (s *site) consume(ctx context.Context, f func(m jetstream.Msg, id string)) (stop func(), err error) {
	nc, js, err := connect(s.broker)
	if err != nil {
		return nil, err
	}
	c, err := js.OrderedConsumer(ctx, s.name, jetstream.OrderedConsumerConfig{})
	if err != nil {
		nc.Close()
		return nil, err
	}
	cc, err := c.Consume(func(m jetstream.Msg) { f(m, m.Headers().Get("ce-id")) }, jetstream.PullMaxMessages(5000))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return func() { cc.Stop(); <-cc.Closed(); nc.Close() }, nil
}
