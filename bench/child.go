package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// A child is another run of this program, in its own process.
const (
	childReplica = "replica" // a relay that leads: database, broker, name of the site
	childNATS    = "nats"    // a NATS server at its default sync interval: folder
)

// asChild returns the command of a child.
func asChild(role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{role}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// runChild runs a child until ctx ends or its standard input is closed.
func runChild(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, stdin)
	}()
	switch {
	case args[0] == childReplica && len(args) == 4:
		return leadUntilDone(ctx, &site{url: args[1], broker: args[2], name: args[3]}, stdout)
	case args[0] == childNATS && len(args) == 2:
		return serveNATS(ctx, args[1], stdout)
	}
	return fmt.Errorf("%q is no command", args)
}

func leadUntilDone(ctx context.Context, s *site, stdout io.Writer) error {
	_, stop, err := (&ours{site: s}).run(ctx, func() { _, _ = fmt.Fprintln(stdout, "LEADING="+s.name) })
	if err != nil {
		return err
	}
	<-ctx.Done()
	return stop()
}

// serveNATS differs from devstack's server in one respect: it may acknowledge a message up to two minutes before
// the message is on disk.
func serveNATS(ctx context.Context, dir string, stdout io.Writer) error {
	s, err := natsserver.NewServer(&natsserver.Options{ServerName: "bench", Host: "127.0.0.1",
		Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(30*time.Second) || !s.JetStreamEnabled() {
		return errors.New("the NATS server did not start")
	}
	_, err = fmt.Fprintln(stdout, "NATS_URL="+s.ClientURL())
	<-ctx.Done()
	return err
}
