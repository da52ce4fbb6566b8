package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// server is another process that this one needs. It ends with SIGTERM, or when
// its standard input is closed: at the latest with this process.
type server struct {
	cmd  *exec.Cmd
	life *os.File
	url  string // what it said when it was ready
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
	addr, err := freeAddress()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.nats, err = launch(ctx, "NATS_URL=",
		exec.Command(devstack, "nats", "--dir", filepath.Join(dir, "nats"), "--addr", addr))
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *servers) close() error {
	return errors.Join(s.nats.close(), s.postgres.close(), os.RemoveAll(s.dir))
}

// launch starts a command and waits for the line that begins with ready: the
// rest of it is the server's URL. DATABASE_URL is for devstack alone to set,
// unless the command has an environment of its own.
func launch(ctx context.Context, ready string, cmd *exec.Cmd) (*server, error) {
	stdin, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdin.Close() }()
	s := &server{cmd: cmd, life: life}
	cmd.Stdin = stdin                                     // what NATS logs to standard error says nothing here
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this process, which ends its servers in order
	if cmd.Env == nil {
		cmd.Env = append(os.Environ(), "DATABASE_URL=")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, life.Close())
	}
	found := make(chan string, 1)
	go func() {
		defer close(found)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if url, ok := strings.CutPrefix(lines.Text(), ready); ok {
				found <- url
				return
			}
		}
	}()
	select {
	case s.url = <-found:
	case <-ctx.Done():
	case <-time.After(5 * time.Minute): // a first start may fetch PostgreSQL
	}
	if s.url == "" {
		return nil, errors.Join(fmt.Errorf("%s did not start", strings.Join(cmd.Args, " ")), s.close())
	}
	return s, nil
}

// pid returns the server's process, 0 for one that somebody else started.
func (s *server) pid() int {
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

func (s *server) close() error {
	if s == nil {
		return nil
	}
	err := s.life.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	kill := time.AfterFunc(30*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	return errors.Join(err, s.cmd.Wait())
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
