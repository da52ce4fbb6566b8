package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/signup-saga/signup-saga/devstack/internal/mailbox"
	"github.com/signup-saga/signup-saga/devstack/internal/natsserver"
	"github.com/signup-saga/signup-saga/devstack/internal/pgbouncer"
	"github.com/signup-saga/signup-saga/devstack/internal/postgres"
	"github.com/signup-saga/signup-saga/devstack/internal/process"
	"github.com/signup-saga/signup-saga/devstack/testenv/port"
)

// startLimit is how long the start of one component may take.
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
	log := filepath.Join(home, "postgres.log")
	cluster, err := openCluster(ctx, home, log, account, io)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer func() { err = errors.Join(err, cluster.Close(context.WithoutCancel(ctx))) }()
	died := make(chan string, 1)
	cluster.OnDeath = func(exit string) { died <- exit }
	limited, done := context.WithTimeout(ctx, startLimit)
	defer done()
	if err := cluster.Start(limited); err != nil {
		return unlessEnded(ctx, process.WithLog(err, log))
	}
	fmt.Fprintf(io.out, "DATABASE_URL=%s\n", cluster.URL("postgres"))
	select {
	case exit := <-died:
		return process.WithLog(fmt.Errorf("postgres ended: %s", exit), log)
	case <-ctx.Done():
		return nil
	}
}

func openCluster(ctx context.Context, home, log string, account postgres.Account, io stdio) (*postgres.Cluster, error) {
	binaries, err := postgres.NewFinder(account, io.getenv, func(note string) { fmt.Fprintln(io.err, note) }).Find(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := account.Place(home)
	if err != nil {
		return nil, err
	}
	free, err := port.Free()
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, postgres.Config{
		Dir: dir, Port: free, Binaries: binaries, Account: account,
		Log: func() (*os.File, error) { return os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) },
	})
}

func runNATS(ctx context.Context, args []string, io stdio) error {
	flags := newFlags("nats", "--dir DIR [--addr HOST:PORT]", io)
	dir := flags.String("dir", "", "keep the messages in this `folder`")
	addr := flags.String("addr", "127.0.0.1:4222", "listen on this `address`; port 0 is any free one")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	if *dir == "" {
		fmt.Fprintln(io.err, "devstack nats: --dir is required")
		return errUsage
	}
	ctx, cancel := untilEOF(ctx, io.in)
	defer cancel()
	return natsserver.Run(ctx, *addr, *dir, func(url string) { fmt.Fprintf(io.out, "NATS_URL=%s\n", url) })
}

func runPgBouncer(ctx context.Context, args []string, io stdio) (err error) {
	flags := newFlags("pgbouncer", "--to URL", io)
	to := flags.String("to", "", "the `URL` of the database")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	ctx, cancel := untilEOF(ctx, io.in)
	defer cancel()
	home, leave, err := enter("", postgres.CurrentAccount())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	return pgbouncer.Run(ctx, *to, home, io.err, func(url string) { fmt.Fprintf(io.out, "DATABASE_URL=%s\n", url) })
}

func runSMTP(ctx context.Context, args []string, io stdio) error {
	flags := newFlags("smtp", "[--addr HOST:PORT] [--http HOST:PORT]", io)
	addr := flags.String("addr", "127.0.0.1:1025", "accept mails on this `address`")
	page := flags.String("http", "127.0.0.1:8025", "show them on this `address`")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	ctx, cancel := untilEOF(ctx, io.in)
	defer cancel()
	return mailbox.Run(ctx, *addr, *page, func(url string) { fmt.Fprintf(io.out, "MAIL_URL=%s\n", url) })
}
