package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// connections is the number of concurrent clients that write, in rows about load.
const connections = 64

// config says what to measure and for how long.
type config struct {
	rows        string
	bin         string // folder of the services
	peers       bool
	reps        int
	slice       time.Duration // of each variant in W, W2, H and N
	backlog     int           // of R
	peerBacklog int           // upper limit for peers in R
	peerDrain   time.Duration // upper limit for peers in R
	flow        time.Duration // of each variant in L
	bigBacklog  int           // of Q
	calm        time.Duration // of Q's run without backlog
	pin         time.Duration // of each variant in B; a fifth of it without
	peerPin     time.Duration // the same for peers
	sustain     time.Duration // of E's load at full speed
	steps       time.Duration // of the limit and the peers in E at full speed
	gentle      time.Duration // of each run at 100 signups/s in E and P
	mails       int           // waiting mails in P
	visits      int           // times that A requests each page
	profile     string        // folder for CPU profiles; "" for none
}

// quick scales everything down, for quick runs during development.
func (c *config) quick() {
	c.reps, c.slice, c.flow, c.calm, c.pin, c.peerPin = 1, time.Second, 2*time.Second, 2*time.Second, 5*time.Second,
		5*time.Second
	c.backlog, c.bigBacklog, c.peerBacklog, c.peerDrain = 50_000, 100_000, 5_000, 3*time.Second
	c.sustain, c.steps, c.gentle, c.mails, c.visits = 9*time.Second, 3*time.Second, 5*time.Second, 20_000, 5
}

// short returns the configuration of row D, which repeats other rows.
func (c config) short() config {
	c.backlog, c.peerBacklog, c.peerDrain, c.flow = c.backlog/2, c.peerBacklog/2, c.peerDrain/2, c.flow/2
	return c
}

// bench holds what all rows share.
type bench struct {
	config
	servers *servers
	admin   *pgxpool.Pool
	// template is the database that sites are copies of.
	template string
	out      io.Writer // progress
	noting   sync.Mutex
	began    time.Time

	sections []*section // one per row that was measured, in order
	signups  float64    // per second, as measured by row W
	drain    float64    // events per second, as measured by row R
}

// row is one row of the table of limits, peers and goals.
type row struct {
	name, title string
	run         func(b *bench, ctx context.Context) error
	takes       func(c config) time.Duration // estimate of its duration
}

// rows are measured in this order. Later rows use results of earlier ones.
var rows = []row{
	{"W", "writing a signup", (*bench).rowW, config.takesW},
	{"W2", "signing up over HTTP", (*bench).rowW2, config.takesW2},
	{"H", "signing up with real password hashes", (*bench).rowH, config.takesH},
	{"R", "draining a backlog", (*bench).rowR, config.takesR},
	{"L", "from the commit to a consumer", (*bench).rowL, config.takesL},
	{"D", "R and L while the broker acknowledges before it syncs to disk", (*bench).rowD, config.takesD},
	{"N", "waking the relay", (*bench).rowN, config.takesN},
	{"Q", "draining while signups arrive", (*bench).rowQ, config.takesQ},
	{"B", "beside a long transaction", (*bench).rowB, config.takesB},
	{"E", "whole sagas", (*bench).rowE, config.takesE},
	{"P", "essential work beside stuck mails", (*bench).rowP, config.takesP},
	{"A", "operators' pages and calls, with a million sagas", (*bench).rowA, config.takesA},
}

// section returns the section of the current row.
func (b *bench) section() *section { return b.sections[len(b.sections)-1] }

func (b *bench) report(l line) {
	b.section().lines = append(b.section().lines, l)
	b.note("   %s: %s %s", l.what, l.value.text(), l.unit)
}

// note prints a line of progress.
func (b *bench) note(format string, args ...any) {
	b.noting.Lock()
	defer b.noting.Unlock()
	_, _ = fmt.Fprintf(b.out, "%6s  %s\n", time.Since(b.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// run measures the chosen rows. If a row fails, it reports that and continues with the others.
func (b *bench) run(ctx context.Context, chosen func(row string) bool) error {
	var left time.Duration
	var todo []row
	for _, r := range rows {
		if chosen(r.name) {
			todo, left = append(todo, r), left+r.takes(b.config)
		}
	}
	b.note("%d rows, about %s", len(todo), left.Round(time.Minute))
	var failures []error
	for _, r := range todo {
		takes := r.takes(b.config)
		b.note("%s: %s; about %s, %s left in all", r.name, r.title, takes.Round(10*time.Second),
			left.Round(10*time.Second))
		left -= takes
		b.sections = append(b.sections, &section{row: r.name, title: r.title, at: time.Now()})
		if err := r.run(b, ctx); err != nil {
			b.note("%s FAILED: %v", r.name, err)
			b.section().failure = err
			failures = append(failures, fmt.Errorf("row %s: %w", r.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failures...)
}

// watch prints a line of progress every 30 seconds until it is stopped.
func (b *bench) watch(what func() string) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(30 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				b.note("   %s", what())
			case <-done:
				return
			}
		}
	})
	return func() { close(done); running.Wait() }
}

// fresh runs f at a new site.
func (b *bench) fresh(ctx context.Context, f func(s *site) error) error {
	s, err := b.newSite(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.close())
}

// at runs f with a system at a new site.
func (b *bench) at(ctx context.Context, m maker, f func(s *site, sys system) error) error {
	err := b.fresh(ctx, func(s *site) error {
		sys, err := m.make(ctx, s)
		if err != nil {
			return err
		}
		return f(s, sys)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

// relaying runs f while the system relays.
func relaying(ctx context.Context, sys system, f func() error) error {
	stop, err := sys.start(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(), stop())
}

// profiled runs f, and writes a CPU profile of it if the configuration asks for one.
func (b *bench) profiled(name string, f func() error) (err error) {
	if b.profile == "" {
		return f()
	}
	file, err := os.Create(filepath.Join(b.profile, name+".prof"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}

// rotated calls each variant once. Each repetition begins with another variant.
func rotated(rep, variants int, f func(variant int) error) error {
	for i := range variants {
		if err := f((i + rep) % variants); err != nil {
			return err
		}
	}
	return nil
}
