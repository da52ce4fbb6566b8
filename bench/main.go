package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the command line says beside the configuration.
type options struct {
	config
	devstack, results string
}

func parse(args []string, usage io.Writer) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&o.devstack, "devstack", "../bin/devstack", "`program` that runs the servers")
	f.StringVar(&o.results, "results", "", "write the table to this `file` and the plot beside it")
	f.StringVar(&o.rows, "rows", "W,R,L,N,Q,B", "`list` of rows to measure")
	f.BoolVar(&o.peers, "peers", false, "measure peers too")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles to this `folder`")
	f.IntVar(&o.reps, "reps", 3, "`number` of repetitions")
	f.DurationVar(&o.slice, "slice", 5*time.Second, "`duration` of each variant of W and N")
	f.DurationVar(&o.flow, "flow", 15*time.Second, "`duration` of each variant of L")
	f.DurationVar(&o.calm, "calm", 15*time.Second, "`duration` of Q's signups without backlog")
	f.DurationVar(&o.pin, "pin", 75*time.Second, "`duration` of each variant of B")
	f.IntVar(&o.backlog, "backlog", 500_000, "`events` that R drains")
	f.IntVar(&o.bigBacklog, "big-backlog", 1_000_000, "`events` that Q drains")
	f.IntVar(&o.peerBacklog, "peer-backlog", 20_000, "`events` that a peer drains in R")
	quick := f.Bool("quick", false, "short runs for a first look; other flags still count")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		o.quick()
		return o, f.Parse(args)
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
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
	machine, err := b.machine(ctx)
	if err != nil {
		return err
	}
	for _, m := range machine {
		b.note("%s", m)
	}
	rows := strings.Split(o.rows, ",")
	failed := b.run(ctx, func(row string) bool { return slices.Contains(rows, row) })
	return errors.Join(failed, b.write(machine, o.results, stdout))
}

// write prints the result and keeps it in a file if one is named.
func (b *bench) write(machine []string, path string, stdout io.Writer) error {
	picture := "pinned-snapshot.svg"
	text := b.markdown(machine, picture)
	_, err := io.WriteString(stdout, text)
	if err != nil || path == "" {
		return err
	}
	if len(b.charts) > 0 {
		err = drawSVG(filepath.Join(filepath.Dir(path), picture), b.charts)
	}
	return errors.Join(err, os.WriteFile(path, []byte(text), 0o644))
}
