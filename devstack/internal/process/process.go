// Package process runs the components of the stack as child processes that can be stopped, killed, paused and
// started again, and that never outlive devstack.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
)

// State says what a Daemon is doing.
type State string

// The states of a Daemon. Killed and Stopped were requested; Died was not.
const (
	Stopped State = "stopped"
	Running State = "running"
	Paused  State = "paused"
	Killed  State = "killed"
	Died    State = "died"
)

// ErrNotReady is wrapped by Start when the process runs but did not answer in time. It keeps running.
var ErrNotReady = errors.New("not ready yet")

// ErrDied is wrapped by Start when the process ended before it was ready.
var ErrDied = errors.New("ended before it was ready")

// stopLimit is how long Stop waits for a process to end before it kills it. It is longer than the drain time of
// the services.
const stopLimit = 30 * time.Second

// Daemon is one component. Fill in the exported fields, then call its methods; they are safe for concurrent use and run
// one at a time.
type Daemon struct {
	// Name appears in errors.
	Name string
	// Command returns a fresh command for each start.
	Command func() (*exec.Cmd, error)
	// Log opens the file for the process's output, at each start. Optional.
	Log func() (*os.File, error)
	// Ready returns nil once the process is ready. Start polls it while it waits. Optional.
	Ready func(ctx context.Context) error
	// StopSignal asks the process to end. Zero means SIGTERM.
	StopSignal syscall.Signal
	// DeathSignal is the signal that the kernel sends to the process when devstack dies. Zero means SIGKILL.
	DeathSignal syscall.Signal
	// Family extends Kill, Pause and Resume to the children of the process.
	Family bool
	// AfterKill removes what a killed process could not remove itself. Optional.
	AfterKill func()
	// OnDeath is called, in its own goroutine, when the process ends without a request. Optional.
	OnDeath func(exit string)

	operation sync.Mutex // held by Start, Stop, Kill, Pause and Resume

	mu    sync.Mutex // guards the fields below
	state State
	since time.Time
	exit  string
	cmd   *exec.Cmd
	done  chan struct{} // closed once cmd has been waited for
}

// Status is a snapshot of a Daemon.
type Status struct {
	State State     `json:"state"`
	PID   int       `json:"pid,omitempty"`
	Since time.Time `json:"since"`
	// Exit says how the process ended, if no request ended it.
	Exit string `json:"exit,omitempty"`
}

// Status returns what the process is doing now.
func (d *Daemon) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Status{State: d.state, Since: d.since, Exit: d.exit}
	if s.State == "" {
		s.State = Stopped
	}
	if d.alive() {
		s.PID = d.cmd.Process.Pid
	}
	return s
}

// Start starts the process and waits until it is ready, it ends, or ctx is done. It does nothing if the process runs.
func (d *Daemon) Start(ctx context.Context) error {
	d.operation.Lock()
	defer d.operation.Unlock()
	done, err := d.launch()
	if done == nil || err != nil {
		return err
	}
	return d.awaitReady(ctx, done)
}

// launch starts the process. A nil channel and a nil error mean that it already runs.
func (d *Daemon) launch() (<-chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.alive() {
		if d.state == Paused {
			return nil, fmt.Errorf("%s is paused: resume it", d.Name)
		}
		return nil, nil
	}
	cmd, err := d.Command()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", d.Name, err)
	}
	if d.Log != nil {
		log, err := d.Log()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", d.Name, err)
		}
		defer log.Close() // the process has its own handle
		cmd.Stdout, cmd.Stderr = log, log
	}
	if err := Start(cmd, d.DeathSignal); err != nil {
		return nil, fmt.Errorf("start %s: %w", d.Name, err)
	}
	d.cmd, d.done = cmd, make(chan struct{})
	d.set(Running)
	go d.wait(cmd, d.done)
	return d.done, nil
}

func (d *Daemon) awaitReady(ctx context.Context, done <-chan struct{}) error {
	if d.Ready == nil {
		return nil
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := d.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("%s %w: %s", d.Name, ErrDied, d.Status().Exit)
		case <-ctx.Done():
			return fmt.Errorf("%s is %w: %w", d.Name, ErrNotReady, err)
		case <-tick.C:
		}
	}
}

// wait reaps the process and records how it ended.
func (d *Daemon) wait(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	exit := "exit status 0"
	if err != nil {
		exit = err.Error()
	}
	d.mu.Lock()
	unexpected := d.state == Running || d.state == Paused
	if unexpected {
		d.set(Died)
		d.exit = exit
	}
	close(done)
	d.mu.Unlock()
	if unexpected && d.OnDeath != nil {
		d.OnDeath(exit)
	}
}

// Stop asks the process to end and waits for it. It kills the process once ctx is done or stopLimit has passed.
func (d *Daemon) Stop(ctx context.Context) error {
	d.operation.Lock()
	defer d.operation.Unlock()
	cmd, done := d.leave(Stopped)
	if cmd == nil {
		return nil
	}
	signal := d.StopSignal
	if signal == 0 {
		signal = syscall.SIGTERM
	}
	if err := cmd.Process.Signal(signal); err == nil {
		d.signalAll(cmd, syscall.SIGCONT) // a paused process must continue to receive the signal
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		d.kill(cmd, done)
		return fmt.Errorf("%s did not stop in time and was killed", d.Name)
	}
}

// Kill ends the process at once with SIGKILL. This is not a power failure: everything that the process has
// written survives in the kernel, synced or not. Killing a process that does not run does nothing.
func (d *Daemon) Kill() error {
	d.operation.Lock()
	defer d.operation.Unlock()
	cmd, done := d.leave(Killed)
	if cmd != nil {
		d.kill(cmd, done)
	}
	return nil
}

// kill freezes the parent first, so that it starts no child between listing the children and killing them.
func (d *Daemon) kill(cmd *exec.Cmd, done <-chan struct{}) {
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	family := d.signalAll(cmd, syscall.SIGKILL)
	<-done
	reap(family)
	if d.AfterKill != nil {
		d.AfterKill()
	}
}

// Pause freezes the process.
func (d *Daemon) Pause() error { return d.move(Running, Paused, syscall.SIGSTOP) }

// Resume continues a paused process.
func (d *Daemon) Resume() error { return d.move(Paused, Running, syscall.SIGCONT) }

func (d *Daemon) move(from, to State, signal syscall.Signal) error {
	d.operation.Lock()
	defer d.operation.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == to {
		return nil
	}
	if d.state != from || !d.alive() {
		return fmt.Errorf("%s is not %s", d.Name, from)
	}
	d.signalAll(d.cmd, signal)
	d.set(to)
	return nil
}

// signalAll signals the children before the process itself, which may reap and replace them. It returns the children.
func (d *Daemon) signalAll(cmd *exec.Cmd, signal syscall.Signal) []int {
	var family []int
	if d.Family {
		family = children(cmd.Process.Pid)
	}
	for _, pid := range family {
		_ = syscall.Kill(pid, signal)
	}
	_ = cmd.Process.Signal(signal)
	return family
}

// leave records the requested state, so that wait does not report the end as a death. It returns nil if no
// process runs.
func (d *Daemon) leave(to State) (*exec.Cmd, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.alive() {
		return nil, nil
	}
	d.set(to)
	return d.cmd, d.done
}

func (d *Daemon) set(s State) { d.state, d.since, d.exit = s, time.Now(), "" }

func (d *Daemon) alive() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// Start starts cmd in its own process group and has the kernel send it signal when this process dies; zero means
// SIGKILL.
func Start(cmd *exec.Cmd, signal syscall.Signal) error {
	if signal == 0 {
		signal = syscall.SIGKILL
	}
	adopt()
	return child.StartBound(cmd, signal)
}

var adopt = sync.OnceFunc(adoptOrphans)

// Run runs cmd to its end and returns what it printed. It kills cmd and all its children when ctx is done.
func Run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := Start(cmd, 0); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		return printed.Bytes(), context.Cause(ctx)
	}
	return printed.Bytes(), err
}

// WithLog adds the end of a process's log to an error.
func WithLog(err error, path string) error {
	const lines = 12
	content, readErr := os.ReadFile(path)
	if err == nil || readErr != nil || len(content) == 0 {
		return err
	}
	last := strings.Split(strings.TrimSpace(string(content)), "\n")
	last = last[max(0, len(last)-lines):]
	return fmt.Errorf("%w\n%s ends with:\n  %s", err, path, strings.Join(last, "\n  "))
}
