package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/signup-saga/signup-saga/devstack/internal/natsserver"
	"github.com/signup-saga/signup-saga/devstack/internal/port"
	"github.com/signup-saga/signup-saga/devstack/internal/postgres"
	"github.com/signup-saga/signup-saga/devstack/internal/scratch"
)

// startLimit bounds the start of one component.
const startLimit = time.Minute

func runPostgres(ctx context.Context, args []string, io stdio) (err error) {
	flags := newFlags("postgres", "[--dir DIR]", io)
	dir := flags.String("dir", "", "keep the data in this `folder` (default: a throw-away folder)")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	ctx, cancel := untilEOF(ctx, io.in)
	defer cancel()
	if given := io.getenv("DATABASE_URL"); given != "" {
		fmt.Fprintf(io.out, "DATABASE_URL=%s\n", given)
		<-ctx.Done()
		return nil
	}

	account := postgres.CurrentAccount()
	home, leave, err := enter(*dir, account)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	cluster, log, err := openCluster(ctx, home, account, io)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer log.Close()
	defer func() { err = errors.Join(err, cluster.Close(context.WithoutCancel(ctx))) }()
	died := make(chan string, 1)
	cluster.OnDeath = func(exit string) { died <- exit }
	limited, done := context.WithTimeout(ctx, startLimit)
	defer done()
	if err := cluster.Start(limited); err != nil {
		return unlessEnded(ctx, withTail(err, log.Name()))
	}
	fmt.Fprintf(io.out, "DATABASE_URL=%s\n", cluster.URL("postgres"))
	select {
	case exit := <-died:
		return withTail(fmt.Errorf("postgres ended: %s", exit), log.Name())
	case <-ctx.Done():
		return nil
	}
}

func openCluster(ctx context.Context, home string, account postgres.Account, io stdio) (*postgres.Cluster, *os.File, error) {
	binaries, err := postgres.NewFinder(account, io.getenv, func(note string) { fmt.Fprintln(io.err, note) }).Find(ctx)
	if err != nil {
		return nil, nil, err
	}
	dir, err := account.Place(home)
	if err != nil {
		return nil, nil, err
	}
	free, err := port.Free()
	if err != nil {
		return nil, nil, err
	}
	log, err := os.OpenFile(filepath.Join(home, "postgres.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	cluster, err := postgres.Open(ctx, postgres.Config{Dir: dir, Port: free, Binaries: binaries, Account: account, Log: log})
	return cluster, log, err
}

func runNATS(ctx context.Context, args []string, io stdio) error {
	flags := newFlags("nats", "--dir DIR [--addr HOST:PORT]", io)
	dir := flags.String("dir", "", "keep the messages in this `folder`")
	addr := flags.String("addr", "127.0.0.1:4222", "listen on this `address`")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	if *dir == "" {
		fmt.Fprintln(io.err, "devstack nats: --dir is needed")
		return errUsage
	}
	ctx, cancel := untilEOF(ctx, io.in)
	defer cancel()
	return natsserver.Run(ctx, *addr, *dir, func(url string) { fmt.Fprintf(io.out, "NATS_URL=%s\n", url) })
}

// enter returns the absolute path of the folder to work in, which is a throw-away one when dir is empty. Only one devstack
// may work in a folder; leave lets the next one in.
func enter(dir string, account postgres.Account) (path string, leave func() error, err error) {
	base := account.TempDir()
	scratch.Sweep(base, postgres.Vacate)
	if dir == "" {
		made, err := scratch.New(base)
		if err != nil {
			return "", nil, err
		}
		return made.Path, made.Remove, nil
	}
	if path, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // a database server that runs as another user passes through
		return "", nil, err
	}
	lock, err := scratch.Lock(filepath.Join(path, ".lock"))
	if err != nil {
		return "", nil, fmt.Errorf("another devstack works in %s: %w", path, err)
	}
	return path, lock.Close, nil
}

// unlessEnded hides an error whose cause is that the user ended the command.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// withTail adds the end of a log to an error.
func withTail(err error, log string) error {
	const size = 2000
	content, readErr := os.ReadFile(log)
	if readErr != nil || len(content) == 0 {
		return err
	}
	return fmt.Errorf("%w\n%s ends with:\n%s", err, log, bytes.TrimSpace(content[max(0, len(content)-size):]))
}
