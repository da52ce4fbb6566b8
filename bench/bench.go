package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// connections is how many clients write at a time where a row is about load.
const connections = 64

// config says what to measure and for how long.
type config struct {
	rows        string
	peers       bool
	reps        int
	slice       time.Duration // of each variant in W and N
	backlog     int           // of R
	peerBacklog int           // of R, for peers
	flow        time.Duration // of each variant in L
	bigBacklog  int           // of Q
	calm        time.Duration // of Q's run without backlog
	pin         time.Duration // of each variant in B
	profile     string        // folder for CPU profiles, "" for none
}

// quick scales everything down, for a look while developing.
func (c *config) quick() {
	c.reps, c.slice, c.flow, c.calm, c.pin = 1, time.Second, 2*time.Second, 2*time.Second, 5*time.Second
	c.backlog, c.bigBacklog, c.peerBacklog = 50_000, 100_000, 2_000
}

// bench holds what all rows share.
type bench struct {
	config
	servers *servers
	admin   *pgxpool.Pool
	out     io.Writer // progress
	began   time.Time

	lines    []line
	failures []error
	charts   []curve // of row B
	signups  float64 // per second, as measured by row W
	drain    float64 // events per second, as measured by row R
}

// line is one line of the result.
type line struct {
	row, what, unit string
	limit, value    series
	goal            goal
}

// goal judges the ratio of a line to its limit, or its value where there is no limit.
type goal struct {
	bound float64
	most  bool // the bound is an upper one
	set   bool
}

func atLeast(bound float64) goal { return goal{bound: bound, set: true} }
func atMost(bound float64) goal  { return goal{bound: bound, most: true, set: true} }

// judged returns what the goal is about.
func (l line) judged() series {
	if l.limit == nil {
		return l.value
	}
	return l.value.over(l.limit)
}

// met reports whether the median meets the goal.
func (l line) met() bool {
	got := l.judged().median()
	if l.goal.most {
		return got <= l.goal.bound
	}
	return got >= l.goal.bound
}

func (b *bench) report(l line) {
	b.lines = append(b.lines, l)
	b.note("%s  %s: %s", l.row, l.what, l.value.text())
}

// note writes a line of progress.
func (b *bench) note(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, "%6s  %s\n", time.Since(b.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// run measures the chosen rows. A row that fails is reported, and the others go on.
func (b *bench) run(ctx context.Context, chosen func(row string) bool) error {
	for _, r := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"W", b.rowW}, {"R", b.rowR}, {"L", b.rowL}, {"N", b.rowN}, {"Q", b.rowQ}, {"B", b.rowB},
	} {
		if !chosen(r.name) {
			continue
		}
		if err := r.run(ctx); err != nil {
			b.note("%s  FAILED: %v", r.name, err)
			b.failures = append(b.failures, fmt.Errorf("row %s: %w", r.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(b.failures...)
}

// at runs f with a system at a fresh site.
func (b *bench) at(ctx context.Context, m maker, f func(s *site, sys system) error) error {
	s, err := b.newSite(ctx)
	if err != nil {
		return err
	}
	sys, err := m.make(ctx, s)
	if err == nil {
		err = f(s, sys)
	}
	if err = errors.Join(err, s.close()); err != nil {
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

// profiled runs f and writes a CPU profile of it if one is asked for.
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

// rotated calls each variant once, beginning with another one at each repetition.
func rotated(rep, variants int, f func(variant int) error) error {
	for i := range variants {
		if err := f((i + rep) % variants); err != nil {
			return err
		}
	}
	return nil
}
