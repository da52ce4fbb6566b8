package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/riverqueue/river"
)

const (
	gentleRate = 100 // signups per second at which latency is measured
	sampleGET  = 10  // at full speed, one signup in this many is also read by GET; at 100/s all are
	thirds     = 3   // number of parts of the sustained run
)

// sagaMaker makes a system that runs whole sagas at a site.
type sagaMaker struct {
	name string
	make func(ctx context.Context, s *site, p *provider) (sagas, error)
}

var singleProcessMaker = sagaMaker{"one process, no broker",
	func(_ context.Context, s *site, p *provider) (sagas, error) {
		return &singleProcess{s, p}, nil
	}}

func riverSagaMaker(name string, config func() river.Config) sagaMaker {
	return sagaMaker{name, func(ctx context.Context, s *site, p *provider) (sagas, error) {
		return newRiverSagas(ctx, s, p, config())
	}}
}

// speeds are the results of row E, one per repetition.
type speeds struct{ rate, p50, p99 series }

func (s *speeds) add(l latencies) {
	p50, p99 := l.percentiles()
	s.p50, s.p99 = append(s.p50, p50), append(s.p99, p99)
}

// rowE measures whole sagas, through both services and the broker.
func (b *bench) rowE(ctx context.Context) (err error) {
	b.section().method = fmt.Sprintf(
		"%d clients for %s without a pause, then %d × %s at 100/s; signups over HTTP without an e-mail address, "+
			"real processes of both services with one replica each, "+
			"password hashes that cost nothing, the fs provider with its ledger (four fsyncs per storage), broker "+
			"at `always`. A client sees `ready` when one watcher of the database, which polls every %s "+
			"on behalf of all clients (every %s when more than %d wait), finds the commit, and then by GET: each at "+
			"100/s, one in %d at full speed. Limit and peers (%s at full speed) write the same rows and sync the "+
			"same files in one "+
			"process without HTTP and hash, and know at once. The spread at full speed is that of the thirds "+
			"of the run",
		connections, b.sustain, b.reps, b.gentle, watchEvery, watchCrowd, crowd, sampleGET, b.steps)
	s, err := b.startStack(ctx, "saga", b.servers.postgres.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(), b.dropStack()) }()
	makers := []sagaMaker{singleProcessMaker}
	if b.peers {
		makers = append(makers, riverSagaMaker("River, tuned", riverTunedConfig),
			riverSagaMaker("River", riverDefaultConfig))
	}
	others := make([]speeds, len(makers))
	var ours speeds
	var parts journeys
	if _, err := closedLoop(ctx, b.gentle/3,
		func(ctx context.Context) error { _, err := s.signUp(ctx, true); return err }); err != nil {
		return err // connections, statements, tables that are not empty
	}
	for rep := range b.reps {
		if rep == b.reps/2 {
			if ours.rate, err = b.sustained(ctx, s); err != nil {
				return err
			}
		}
		for i, m := range makers {
			if err := b.sagasOf(ctx, m, &others[i]); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
		took, journeys, err := s.gently(ctx, b.gentle)
		if err != nil {
			return err
		}
		ours.add(took)
		parts = append(parts, journeys...)
		b.note("   %d/%d: at 100/s p50 %s, p99 %s ms", rep+1, b.reps, number(ours.p50[rep]), number(ours.p99[rep]))
	}
	if err := s.audit(ctx); err != nil {
		return err
	}
	b.reportSagas(ours, others, makers)
	note, err := parts.note(ctx, s)
	b.section().notes = append(b.section().notes, note)
	return err
}

func (b *bench) reportSagas(ours speeds, others []speeds, makers []sagaMaker) {
	limit := others[0]
	b.report(line{what: "whole sagas; limit: " + makers[0].name, unit: "sagas/s", limit: limit.rate, value: ours.rate,
		goal: atLeast(0.5)})
	b.report(line{what: "the same, sustained", unit: "sagas/s", value: ours.rate, goal: atLeast(1500)})
	b.report(line{what: "at 100/s, p50", unit: "ms", limit: limit.p50, value: ours.p50, goal: atMost(8).ofValue()})
	b.report(line{what: "at 100/s, p99", unit: "ms", limit: limit.p99, value: ours.p99, goal: atMost(30).ofValue()})
	for i, m := range makers[1:] {
		peer := others[i+1]
		b.report(line{what: "whole sagas; limit: " + m.name, unit: "sagas/s", limit: peer.rate, value: ours.rate,
			goal: atLeast(1)})
		b.report(line{what: "at 100/s, p50", unit: "ms", limit: peer.p50, value: ours.p50})
		b.report(line{what: "at 100/s, p99", unit: "ms", limit: peer.p99, value: ours.p99})
	}
}

// sustained makes all clients sign up for a long time and records what each process used meanwhile.
func (b *bench) sustained(ctx context.Context, s *stack) (series, error) {
	parties, err := b.stackParties(ctx, s)
	if err != nil {
		return nil, err
	}
	before, began, accepted := b.usage(parties), time.Now(), s.accepted.Load()
	stop := b.watch(func() string {
		return fmt.Sprintf("%d sagas, %s/s", s.accepted.Load()-accepted,
			number(float64(s.accepted.Load()-accepted)/time.Since(began).Seconds()))
	})
	defer stop()
	sampled := sample(ctx, b.admin)
	rates, err := closedParts(ctx, b.sustain, thirds, func(ctx context.Context) error {
		_, err := s.signUp(ctx, s.accepted.Load()%sampleGET == 0)
		return err
	})
	found, sampleErr := sampled()
	if err := errors.Join(err, sampleErr); err != nil {
		return nil, err
	}
	after := b.usage(parties)
	b.note("   %s sagas/s; %s", number(rates.median()), after.since(before))
	rate := float64(s.accepted.Load()-accepted) / time.Since(began).Seconds()
	b.section().notes = append(b.section().notes, costs(after, before, rate, "saga"),
		found.shares(after.cores(postgresParty, before)/rate*1e6))
	return rates, nil
}

// sagasOf runs the sagas of a limit or a peer at a new site: first at full speed, then at 100/s.
func (b *bench) sagasOf(ctx context.Context, m sagaMaker, to *speeds) error {
	return b.fresh(ctx, func(s *site) error {
		p, err := newProvider(filepath.Join(b.servers.dir, s.name))
		if err != nil {
			return err
		}
		run, err := m.make(ctx, s, p)
		if err != nil {
			return errors.Join(err, p.close())
		}
		stop, err := run.start(ctx)
		if err != nil {
			return errors.Join(err, p.close())
		}
		err = func() error {
			if _, err := closedLoop(ctx, warmUp, run.signUp); err != nil {
				return err
			}
			rate, err := closedLoop(ctx, b.steps, run.signUp)
			if err != nil {
				return err
			}
			took, err := openLoop(ctx, gentleRate, b.gentle, run.signUp)
			if err != nil {
				return err
			}
			to.rate = append(to.rate, rate)
			to.add(took)
			b.note("   %s: %s sagas/s; at 100/s p50 %s, p99 %s ms", m.name, number(rate), number(to.p50[len(to.p50)-1]),
				number(to.p99[len(to.p99)-1]))
			return s.auditSagas(ctx, int(p.created.Load()))
		}()
		return errors.Join(err, stop(), p.close())
	})
}

// auditSagas fails unless all members of a site are ready and so are their storages, and the provider has created
// exactly as many.
func (s *site) auditSagas(ctx context.Context, created int) error {
	var members, sagas, storages int
	err := s.clients.QueryRow(ctx, `-- name: countSettled
SELECT (SELECT count(*) FROM member), (SELECT count(*) FROM signup_saga WHERE state = 'ready'), (SELECT count(*)
    FROM storage.storage WHERE status = 'ready')`).
		Scan(&members, &sagas, &storages)
	if err == nil && (sagas != members || storages != members || created != members) {
		err = fmt.Errorf("of %d members %d are ready, %d have a storage, %d were created", members, sagas, storages,
			created)
	}
	return err
}

// dropStack drops the databases that the services left on the shared server.
func (b *bench) dropStack() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, name := range []string{"member", "storage"} {
		_, err := b.admin.Exec(ctx, "-- name: dropDatabase\nDROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// gently signs up at 100/s. It returns how long the clients waited, and their journeys.
func (s *stack) gently(ctx context.Context, d time.Duration) (took latencies, all journeys, err error) {
	var mu sync.Mutex
	took, err = openLoop(ctx, gentleRate, d, func(ctx context.Context) error {
		j, err := s.signUp(ctx, true)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, j)
		return err
	})
	return took, all, err
}
