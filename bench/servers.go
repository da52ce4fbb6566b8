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

// server is another process that this one needs. It ends on SIGTERM, or when its standard input is closed, so at
// the latest with this process.
type server struct {
	cmd  *exec.Cmd
	life *os.File
	url  string // printed when it was ready
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

// launch starts a command and waits for the line that begins with ready. The rest of that line is the server's
// URL. The command does not inherit DATABASE_URL, unless it has its own environment.
func launch(ctx context.Context, ready string, cmd *exec.Cmd) (*server, error) {
	stdin, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdin.Close() }()
	s := &server{cmd: cmd, life: life}
	cmd.Stdin = stdin                                     // NATS logs to standard error; that is not shown
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches only this process, which stops its servers
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
	case <-time.After(5 * time.Minute): // a first start may download PostgreSQL
	}
	if s.url == "" {
		return nil, errors.Join(fmt.Errorf("%s did not start", strings.Join(cmd.Args, " ")), s.close())
	}
	return s, nil
}

// pid returns the server's process id, or 0 if this process did not start it.
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
