package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv/scratch"
)

// socketPathLimit is the lowest limit of any system for the path of a unix socket, in bytes.
const socketPathLimit = 104

// control lets other devstack commands operate the stack over a unix socket. The file DIR/control holds the path
// of the socket, which is elsewhere if DIR is too long for one.
type control struct {
	server  *http.Server
	pointer string
	socket  string
	scratch *scratch.Dir // nil if the socket is in DIR
}

func pointerFile(dir string) string { return filepath.Join(dir, "control") }

func listen(s *Stack) (*control, error) {
	c := &control{pointer: pointerFile(s.options.Dir), socket: filepath.Join(s.options.Dir, "control.sock")}
	if len(c.socket) >= socketPathLimit {
		short, err := scratch.New(s.options.Account.TempDir())
		if err != nil {
			return nil, err
		}
		c.scratch, c.socket = short, filepath.Join(short.Path, "control.sock")
	}
	if err := os.Remove(c.socket); err != nil && !os.IsNotExist(err) {
		return c, err
	}
	listener, err := net.Listen("unix", c.socket)
	if err != nil {
		return c, fmt.Errorf("listen for commands: %w", err)
	}
	if err := errors.Join(os.Chmod(c.socket, 0o600), writeFile(c.pointer, []byte(c.socket+"\n"))); err != nil {
		return c, errors.Join(err, listener.Close())
	}
	c.server = &http.Server{Handler: routes(s), ReadHeaderTimeout: time.Minute}
	go func() { _ = c.server.Serve(listener) }() // returns after close
	return c, nil
}

func (c *control) close() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.server != nil {
		errs = append(errs, c.server.Close(), os.Remove(c.pointer))
	}
	if c.scratch != nil {
		errs = append(errs, c.scratch.Remove())
	}
	return errors.Join(errs...)
}

func routes(s *Stack) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Status()) // an error means that the caller has disconnected
	})
	mux.HandleFunc("POST /do/{verb}/{component}", func(w http.ResponseWriter, r *http.Request) {
		// The command continues if its caller disconnects: half a wipe would be useless.
		done, err := s.Do(context.WithoutCancel(r.Context()), r.PathValue("verb"), r.PathValue("component"),
			r.FormValue("fault"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, done)
	})
	return mux
}

// Client operates the stack that runs in a folder.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient returns the client for the stack in dir. It fails if no stack runs there.
func NewClient(dir string) (*Client, error) {
	socket, err := os.ReadFile(pointerFile(dir))
	if err != nil {
		return nil, fmt.Errorf("no devstack runs in %s", dir)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimSpace(string(socket)))
	}
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

// Do asks the stack to carry out a verb on a component. See Stack.Do.
func (c *Client) Do(ctx context.Context, verb, component, fault string) (string, error) {
	answer, err := c.call(ctx, http.MethodPost, "/do/"+url.PathEscape(verb)+"/"+url.PathEscape(component)+"?"+
		url.Values{"fault": {fault}}.Encode())
	return strings.TrimSpace(string(answer)), err
}

// Status asks the stack what every component is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	answer, err := c.call(ctx, http.MethodGet, "/status")
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal(answer, &status)
}

func (c *Client) call(ctx context.Context, method, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://devstack"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("no devstack runs in %s: %w", c.dir, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return text, nil
}
