package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
)

// server is another process that this one needs.
type server struct {
	*child.Process        // nil if this process did not start it
	url            string // printed when it was ready
}

// servers are the Postgres and the NATS server of all rows.
type servers struct {
	postgres, nats *server
	dir            string
	devstack       string // program
}

func startServers(ctx context.Context, devstack string) (*servers, error) {
	dir, err := os.MkdirTemp("", "signup-saga-bench-")
	if err != nil {
		return nil, err
	}
	s := &servers{dir: dir, devstack: devstack}
	if s.postgres, err = launch(ctx, "DATABASE_URL=", exec.Command(devstack, "postgres")); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.nats, err = launch(ctx, "NATS_URL=",
		exec.Command(devstack, "nats", "--dir", filepath.Join(dir, "nats"), "--addr", "127.0.0.1:0"))
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *servers) close() error {
	return errors.Join(s.nats.close(), s.postgres.close(), os.RemoveAll(s.dir))
}

// launch starts a command and waits for the line that begins with ready. The rest of that line is the server's URL.
func launch(ctx context.Context, ready string, cmd *exec.Cmd) (*server, error) {
	p, url, err := child.Start(ctx, cmd, ready)
	if err != nil {
		return nil, err
	}
	return &server{p, url}, nil
}

// pid returns the server's process id, or 0 if this process did not start it.
func (s *server) pid() int {
	if s.Process == nil {
		return 0
	}
	return s.PID()
}

func (s *server) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.Close(), s.Err)
}
