// Package child runs servers as processes that end with this one: each ends when its standard input is closed, which
// the kernel does at the latest when this process dies.
package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// startLimit is long because a first start may have to download PostgreSQL.
	startLimit = 5 * time.Minute
	// stopLimit is how long a process may take to end before it is killed.
	stopLimit = 30 * time.Second
)

// Process is a running program.
type Process struct {
	// Done is closed when the process has ended.
	Done <-chan struct{}
	// Err says how the process ended. It is valid once Done is closed.
	Err error

	cmd  *exec.Cmd
	life *os.File // our end of its standard input
}

// Start starts cmd, and waits until it prints a line that begins with ready. It returns the rest of that line. If the
// process ends or ctx is done before that, the error holds what the process wrote to standard error, unless cmd
// has a Stderr of its own. Without an environment of its own, cmd inherits this process's, except DATABASE_URL:
// tests never write to the database that it names.
func Start(ctx context.Context, cmd *exec.Cmd, ready string) (p *Process, value string, err error) {
	messages, err := os.CreateTemp("", "child-")
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = errors.Join(messages.Close(), os.Remove(messages.Name())) }()
	if cmd.Stderr == nil {
		cmd.Stderr = messages
	}
	if cmd.Env == nil {
		cmd.Env = append(os.Environ(), "DATABASE_URL=")
	}
	// A terminal's interrupt reaches only the group of this process, which then stops its children cleanly.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, life, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer stdin.Close()
	stdout, printed, err := os.Pipe()
	if err != nil {
		return nil, "", errors.Join(err, life.Close())
	}
	cmd.Stdin, cmd.Stdout = stdin, printed
	err = cmd.Start()
	_ = printed.Close() // so that stdout ends with the process
	if err != nil {
		return nil, "", errors.Join(err, life.Close(), stdout.Close())
	}
	done := make(chan struct{})
	p = &Process{Done: done, cmd: cmd, life: life}
	go func() {
		defer close(done)
		p.Err = cmd.Wait()
	}()
	if value, err = readLine(ctx, stdout, ready); err != nil {
		closed := p.Close()
		text, _ := os.ReadFile(messages.Name()) // without it, the error still names the command
		return nil, "", errors.Join(fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text), closed)
	}
	return p, value, nil
}

// readLine returns the rest of the first line that begins with prefix. What follows is discarded.
func readLine(ctx context.Context, from *os.File, prefix string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = from.SetReadDeadline(time.Now()) })()
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			go func() { _, _ = io.Copy(io.Discard, from); _ = from.Close() }()
			return value, nil
		}
	}
	return "", errors.Join(errors.New("it ended, or did not become ready in time"), lines.Err(), from.Close())
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(signal os.Signal) error { return p.cmd.Process.Signal(signal) }

// Close stops the process cleanly, or kills it after 30 s. A process that has ended is closed without an error.
func (p *Process) Close() error {
	_ = p.life.Close() // a second close is harmless
	_ = p.Signal(syscall.SIGTERM)
	_ = p.Signal(syscall.SIGCONT)
	select {
	case <-p.Done:
		return nil
	case <-time.After(stopLimit):
		p.Kill()
		return fmt.Errorf("%s did not end and was killed", p.cmd)
	}
}

// Kill kills the process and waits until it has ended.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.Done
	_ = p.life.Close()
}
