package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Main runs run as the whole program. The first SIGTERM or interrupt cancels its context; a second one exits at
// once with status 130. An error is printed to standard error, as JSON with LOG_FORMAT=json, and the program
// exits with status 1. Stopping serve or broker while it still waits for something is not an error. Stopping a
// job is one, because it has not done its work.
func Main(run func(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	format, _ := lookup(os.Getenv, "LOG_FORMAT")
	log := NewLogger(os.Stderr, format, "info")
	slog.SetDefault(log) // libraries that log use this format, too
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(130)
	}()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	err = ended(ctx, os.Args[1:], err)
	if err == nil {
		return
	}
	if format == "json" {
		log.Error("ended", "error", err)
	} else {
		fmt.Fprintln(os.Stderr, err) // for people; may have several lines
	}
	os.Exit(1)
}

var errInterrupted = errors.New("interrupted before the work was done: run it again")

// ended returns what a subcommand's error means, given that the program may have been told to stop.
func ended(ctx context.Context, args []string, err error) error {
	switch {
	case ctx.Err() == nil || !errors.Is(err, context.Canceled):
		return err
	case len(args) > 0 && slices.Contains([]string{"serve", "broker"}, args[0]):
		return nil
	default:
		return errInterrupted
	}
}

// Task is a part of a service that runs until its context ends. Returning
// earlier, with an error or without, stops the whole process.
type Task struct {
	Name string                          // for logs and errors
	Run  func(ctx context.Context) error // see above
}

// Process is a running service. Its fields are its parts. [Process.Run] starts all of them, and stops them in
// the one order that loses nothing:
//
//	readiness off → DrainDelay → HTTP drain → relays → workers → closers
//
// Requests end before the relays, so that the relays still publish what the last request committed. Workers end
// before the connections that they use.
type Process struct {
	Log     *slog.Logger                      // required
	Health  *Health                           // may be nil
	Servers []*Server                         // listening already
	Relays  []Task                            // stopped after the last request
	Workers []Task                            // stopped after the relays
	Closers []func(ctx context.Context) error // run last, in order

	DrainDelay   time.Duration // lets load balancers see that readiness is off
	DrainTimeout time.Duration // bounds everything after DrainDelay together, even if a part hangs
}

// Run returns nil after an orderly stop, when ctx ended. If a server fails or a task returns early, Run stops
// the rest in the same order, without the delay, and returns the cause.
func (p *Process) Run(ctx context.Context) error {
	failed := make(chan error, len(p.Servers)+len(p.Relays)+len(p.Workers))
	for _, s := range p.Servers {
		go func() { failed <- s.Serve() }()
	}
	stopWorkers := p.start(ctx, p.Workers, failed)
	stopRelays := p.start(ctx, p.Relays, failed)

	var cause error
	select {
	case <-ctx.Done():
		p.Log.Info("draining", "delay", p.DrainDelay)
		p.beginDrain()
		pause(context.WithoutCancel(ctx), p.DrainDelay)
	case cause = <-failed:
		p.Log.Error("stopping", "error", cause)
		p.beginDrain()
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.DrainTimeout)
	defer cancel()
	errs := []error{cause}
	steps := append([]func(context.Context) error{p.shutdownServers, stopRelays, stopWorkers}, p.Closers...)
	for i, step := range steps {
		began := time.Now()
		errs = append(errs, within(drain, fmt.Sprintf("step %d of the stop sequence hangs", i+1), step))
		p.Log.Debug("drained", "step", i+1, "took", time.Since(began))
	}
	p.Log.Info("stopped")
	return errors.Join(errs...)
}

// start runs tasks under a context of their own, which does not end with ctx. The returned function cancels
// that context and waits for the tasks.
func (p *Process) start(ctx context.Context, tasks []Task, failed chan<- error) (stop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	for _, t := range tasks {
		wg.Go(func() {
			if err := t.Run(ctx); ctx.Err() == nil {
				failed <- fmt.Errorf("%s ended: %w", t.Name, errors.Join(err, errEndedEarly))
			}
		})
	}
	return func(drain context.Context) error {
		cancel()
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
			return nil
		case <-drain.Done():
			return fmt.Errorf("tasks did not stop: %w", drain.Err())
		}
	}
}

// errorGrace is how long a step that was cut off may take to return its own error.
const errorGrace = 50 * time.Millisecond

// within returns what fn returns, or ctx's error soon after ctx has ended. fn may ignore ctx, for example while
// it waits for a lock or a server; then it is left running.
func within(ctx context.Context, what string, fn func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(errorGrace):
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

// closeAll runs closers where there is no [Process], for at most a second each.
func closeAll(closers []func(context.Context) error) {
	for _, c := range closers {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		_ = within(ctx, "close", c)
		cancel()
	}
}

var errEndedEarly = errors.New("ended before the stop began")

func (p *Process) beginDrain() {
	if p.Health != nil {
		p.Health.SetDraining()
	}
	for _, s := range p.Servers {
		s.BeginDrain()
	}
}

func (p *Process) shutdownServers(ctx context.Context) error {
	errs := make([]error, len(p.Servers))
	var wg sync.WaitGroup
	for i, s := range p.Servers {
		wg.Go(func() { errs[i] = s.Shutdown(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
