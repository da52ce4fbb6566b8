package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line's options, including the configuration.
type options struct {
	config
	devstack, results string
}

func parse(args []string, usage io.Writer) (o options, err error) {
	var all []string
	for _, r := range rows {
		all = append(all, r.name)
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&o.devstack, "devstack", "../bin/devstack", "`program` that runs the servers")
	f.StringVar(&o.bin, "bin", "../bin", "`folder` with the services, as make build leaves them")
	f.StringVar(&o.results, "results", "", "write the result to this `file` and the plot beside it")
	f.StringVar(&o.rows, "rows", strings.Join(all, ","), "`list` of rows to measure; the file's other rows stay")
	f.BoolVar(&o.peers, "peers", false, "measure peers too")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles to this `folder`")
	f.IntVar(&o.reps, "reps", 3, "`number` of repetitions")
	f.DurationVar(&o.slice, "slice", 3*time.Second, "`duration` of each variant of W, W2, H and N")
	f.DurationVar(&o.flow, "flow", 6*time.Second, "`duration` of each variant of L")
	f.DurationVar(&o.calm, "calm", 6*time.Second, "`duration` of Q's signups without backlog")
	f.DurationVar(&o.pin, "pin", 5*time.Minute, "`duration` of each variant of B")
	f.DurationVar(&o.peerPin, "peer-pin", 150*time.Second, "`duration` of each variant of B for a peer")
	f.IntVar(&o.backlog, "backlog", 500_000, "`events` that R drains")
	f.IntVar(&o.bigBacklog, "big-backlog", 1_000_000, "`events` that Q drains")
	f.IntVar(&o.peerBacklog, "peer-backlog", 50_000,
		"`events` that a peer drains in R, or as many as it manages in -peer-drain")
	f.DurationVar(&o.peerDrain, "peer-drain", 15*time.Second, "longest `duration` of a peer's drain")
	f.DurationVar(&o.sustain, "sustain", 5*time.Minute, "`duration` of E at full speed")
	f.DurationVar(&o.steps, "steps", 15*time.Second, "`duration` of E's limit and peers at full speed")
	f.DurationVar(&o.gentle, "gentle", 15*time.Second, "`duration` of each run of E and P at 100 signups/s")
	f.IntVar(&o.mails, "mails", 1_000_000, "stuck `mails` of P")
	f.IntVar(&o.visits, "visits", 200, "`times` that A loads each page")
	quick := f.Bool("quick", false, "short runs for a first look; other flags still count")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		o.quick()
		err = f.Parse(args)
	}
	for _, name := range strings.Split(o.rows, ",") {
		if !slices.Contains(all, name) {
			err = errors.Join(err, fmt.Errorf("there is no row %q; there are %s", name, strings.Join(all, ", ")))
		}
	}
	return o, err
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return runChild(ctx, args, stdin, stdout)
	}
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	b := &bench{config: o.config, out: stderr, began: time.Now()}
	if b.servers, err = startServers(ctx, o.devstack); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.servers.close()) }()
	if b.admin, err = newPool(ctx, b.servers.postgres.url, 4); err != nil {
		return err
	}
	defer b.admin.Close()
	if err := b.makeTemplate(ctx); err != nil {
		return err
	}
	machine, err := b.machine(ctx)
	if err != nil {
		return err
	}
	chosen := strings.Split(o.rows, ",")
	earlier, err := b.earlier(machine, o.results, len(chosen))
	if err != nil {
		return err
	}
	b.note("measuring on\n%s", machine)
	failed := b.run(ctx, func(row string) bool { return slices.Contains(chosen, row) })
	_, err = io.WriteString(stdout, b.document(machine, ""))
	if o.results != "" && ctx.Err() == nil { // an interrupted run must not replace a complete one
		err = errors.Join(err, b.save(b.document(machine, earlier), o.results))
	}
	return errors.Join(failed, err)
}
