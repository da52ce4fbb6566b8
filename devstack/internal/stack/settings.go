package stack

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/signup-saga/signup-saga/devstack/testenv/port"
)

// settings are what a stack keeps across restarts: its ports and its secrets. Only release is safe for
// concurrent use.
type settings struct {
	Ports   map[string]int    `json:"ports"`
	Secrets map[string]string `json:"secrets"`

	path string
	mu   sync.Mutex
	held map[string]net.Listener // ports that are reserved until their component starts
}

func loadSettings(dir string) (*settings, error) {
	s := &settings{
		Ports: map[string]int{}, Secrets: map[string]string{},
		path: filepath.Join(dir, "devstack.json"), held: map[string]net.Listener{},
	}
	content, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, s); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return s, nil
}

func (s *settings) save() error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(s.path, append(content, '\n'))
}

// port returns the port of a listener, the same as before if possible, and reserves it until release.
func (s *settings) port(name string, preferred int) (int, error) {
	if kept := s.Ports[name]; kept != 0 {
		preferred = kept
	}
	held, number, err := port.Hold(preferred)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	s.Ports[name], s.held[name] = number, held
	return number, nil
}

// release frees the ports of the named listeners, so that their components can take them.
func (s *settings) release(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if held := s.held[name]; held != nil {
			_ = held.Close()
			delete(s.held, name)
		}
	}
}

func (s *settings) releaseAll() {
	for name := range s.Ports {
		s.release(name)
	}
}

// secret returns the secret of that name. It makes a random one on first use.
func (s *settings) secret(name string) string {
	if s.Secrets[name] == "" {
		s.Secrets[name] = rand.Text() + rand.Text()
	}
	return s.Secrets[name]
}

// writeFile replaces a private file in one step, so that a reader never sees half of it.
func writeFile(path string, content []byte) error {
	draft := path + ".new"
	if err := os.WriteFile(draft, content, 0o600); err != nil {
		return err
	}
	return os.Rename(draft, path)
}
