package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
)

// logLimit is the size in bytes from which a log is renamed when its component starts. One older log is kept.
const logLimit = 8 << 20

// component is one process of the stack.
type component struct {
	*process.Daemon
	url     string
	listens []string               // names of its ports in the settings
	fault   atomic.Pointer[string] // where its next process ends itself; nil or empty: nowhere
}

// program says how a component is run.
type program struct {
	path string
	args []string
	env  []string // added to devstack's own
}

// command returns a fresh command that runs the program in dir.
func (p program) command(dir string) *exec.Cmd {
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), p.env...)
	return cmd
}

// newComponent returns a component that runs a program and writes its log file.
func (s *Stack) newComponent(
	name, url string, p program, ready func(context.Context) error, listens ...string,
) *component {
	command := func() (*exec.Cmd, error) { return p.command(s.options.Dir), nil }
	log := func() (*os.File, error) { return s.openLog(name) }
	return s.watch(&component{
		Daemon:  &process.Daemon{Name: name, Command: command, Log: log, Ready: ready},
		url:     url,
		listens: listens,
	})
}

// watch releases a component's ports when it starts, and reports its death.
func (s *Stack) watch(c *component) *component {
	command := c.Command
	c.Command = func() (*exec.Cmd, error) {
		s.settings.release(c.listens...)
		cmd, err := command()
		if point := c.fault.Swap(nil); err == nil && point != nil && *point != "" {
			cmd.Env = append(cmd.Env, "FAULT="+*point)
		}
		return cmd, err
	}
	c.OnDeath = func(exit string) {
		select {
		case <-s.ready:
		default:
			return // Start returns it as an error
		}
		s.options.Note(fmt.Sprintf("%s ended unexpectedly: %s (log: %s)", c.Name, exit, s.logPath(c.Name)))
	}
	return c
}

func (s *Stack) logPath(name string) string { return filepath.Join(s.options.Dir, "log", name+".log") }

func (s *Stack) openLog(name string) (*os.File, error) {
	path := s.logPath(name)
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// component finds a component by its name.
func (s *Stack) component(name string) (*component, error) {
	i := slices.IndexFunc(s.components, func(c *component) bool { return c.Name == name })
	if i >= 0 {
		return s.components[i], nil
	}
	if name == postgresName {
		return nil, errors.New("postgres is not run by devstack: DATABASE_URL named a server")
	}
	var known []string
	for _, c := range s.components {
		known = append(known, c.Name)
	}
	return nil, fmt.Errorf("there is no component %q; there are %s", name, strings.Join(known, ", "))
}

var probes = &http.Client{Timeout: 2 * time.Second}

// answersOK returns a check that succeeds when a GET of the URL returns 200.
func answersOK(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		answer, err := probes.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(io.LimitReader(answer.Body, 500)) // only used to explain the status
			return fmt.Errorf("%s answers %s: %s", url, answer.Status, strings.TrimSpace(string(text)))
		}
		return nil
	}
}

// greetsWithJetStream returns a check that succeeds when a NATS server at addr announces JetStream.
func greetsWithJetStream(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		deadline, _ := ctx.Deadline()
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
		var verb string
		var info struct{ JetStream bool }
		if _, err := fmt.Fscan(conn, &verb); err != nil {
			return err
		}
		if err := json.NewDecoder(conn).Decode(&info); err != nil {
			return err
		}
		if !info.JetStream {
			return errors.New("JetStream is not ready yet")
		}
		return nil
	}
}
