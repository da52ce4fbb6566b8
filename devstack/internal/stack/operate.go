package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
)

// Do carries out a verb on a component and returns what it did: kill, stop, start, pause or resume on any
// component, wipe on nats only. A verb that changes nothing is not an error. A service that is started with a
// fault (point[:nth]) ends itself at that point.
func (s *Stack) Do(ctx context.Context, verb, name, fault string) (string, error) {
	select {
	case <-s.ready:
	default:
		return "", errors.New("the stack is still starting")
	}
	c, err := s.component(name)
	if err != nil {
		return "", err
	}
	switch verb {
	case "kill":
		return name + " is killed", c.Kill()
	case "stop":
		return name + " is stopped", c.Stop(ctx)
	case "start":
		c.fault.Store(&fault)
		return s.restart(ctx, c)
	case "pause":
		return name + " is paused", c.Pause()
	case "resume":
		return name + " is resumed", c.Resume()
	case "wipe":
		return s.wipe(ctx, c)
	default:
		return "", fmt.Errorf("unknown verb %q", verb)
	}
}

// restart starts a component. If the component runs but is not ready, for example because something it needs is
// down, that is not an error.
func (s *Stack) restart(ctx context.Context, c *component) (string, error) {
	err := s.startComponent(ctx, c.Name, restartLimit)
	if errors.Is(err, process.ErrNotReady) {
		return c.Name + " runs, but is not ready yet", nil
	}
	return c.Name + " runs", err
}

// wipe deletes everything that NATS has stored, like the loss of a disk.
func (s *Stack) wipe(ctx context.Context, c *component) (string, error) {
	if c.Name != natsName {
		return "", fmt.Errorf("only %s can be wiped", natsName)
	}
	if err := c.Kill(); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(s.natsDir())
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.natsDir(), e.Name())); err != nil {
			return "", err
		}
	}
	_, err = s.restart(ctx, c)
	return "nats has lost all its data and runs again", err
}

// Status is a snapshot of a stack.
type Status struct {
	// Dir is the folder of the stack.
	Dir string `json:"dir"`
	// Ready is set once all components have been started. It stays set if they are killed later.
	Ready      bool              `json:"ready"`
	Components []ComponentStatus `json:"components"`
}

// ComponentStatus is a snapshot of one component.
type ComponentStatus struct {
	Name string `json:"name"`
	process.Status
	// URL is where the component listens.
	URL string `json:"url"`
	Log string `json:"log"`
}

// Status returns what every component is doing.
func (s *Stack) Status() Status {
	status := Status{Dir: s.options.Dir}
	select {
	case <-s.ready:
		status.Ready = true
	default:
	}
	for _, c := range s.components {
		status.Components = append(status.Components,
			ComponentStatus{Name: c.Name, Status: c.Status(), URL: c.url, Log: s.logPath(c.Name)})
	}
	return status
}

// Deaths returns an error that names the components that ended without a request, or nil.
func (s *Stack) Deaths() error {
	var errs []error
	for _, c := range s.components {
		if status := c.Status(); status.State == process.Died {
			err := fmt.Errorf("%s ended unexpectedly: %s", c.Name, status.Exit)
			errs = append(errs, process.WithLog(err, s.logPath(c.Name)))
		}
	}
	return errors.Join(errs...)
}
