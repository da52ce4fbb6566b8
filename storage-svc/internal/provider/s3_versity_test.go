//go:build verify

package provider_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// gateway is a process of versitygw, an object store over a directory.
type gateway struct {
	t    *testing.T
	addr string
	args []string
	quit func() // kills it
}

func startGateway(t *testing.T, versions bool) *gateway {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	g := &gateway{t: t, addr: l.Addr().String()}
	must(t, l.Close())
	dir := t.TempDir()
	root, old := filepath.Join(dir, "root"), filepath.Join(dir, "versions")
	must(t, os.Mkdir(root, 0o750), os.Mkdir(old, 0o750))
	g.args = []string{"--port", g.addr, "--health", "/health", "--access", accessKey, "--secret", secretKey, "--quiet",
		"posix"}
	if versions {
		g.args = append(g.args, "--versioning-dir", old)
	}
	g.args = append(g.args, root)
	g.start()
	t.Cleanup(func() { g.quit() })
	return g
}

// start runs the program under a shell that kills it when the shell's input ends: when the test says so, or
// when this process dies.
func (g *gateway) start() {
	g.t.Helper()
	program := os.Getenv("VERSITYGW_BIN")
	if program == "" {
		g.t.Fatal("VERSITYGW_BIN must name the program versitygw; make verify builds it")
	}
	script := `"$@" & while read -r line; do :; done; kill -9 $!; wait`
	cmd := exec.CommandContext(context.WithoutCancel(g.t.Context()), "sh",
		append([]string{"-c", script, "sh", program}, g.args...)...)
	input, err := cmd.StdinPipe()
	must(g.t, err, cmd.Start())
	g.quit = sync.OnceFunc(func() {
		_ = input.Close()
		_ = cmd.Wait() // the error is that it was killed
	})
	testenv.Eventually(g.t, 20*time.Second, "versitygw", func() bool {
		resp, err := http.Get("http://" + g.addr + "/health") // an address of this test
		if err != nil {
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}

func TestVersityConforms(t *testing.T) {
	for name, versions := range map[string]bool{"plain": false, "versioned": true} {
		t.Run(name, func(t *testing.T) {
			g := startGateway(t, versions)
			conforms(t, func(t *testing.T) place { return newObjectStore(t, "http://"+g.addr, versions).place() })
		})
	}
}

// The object store is killed again and again while workers create and remove storages. Each worker repeats its
// call until it succeeds, and every member's storage is created at most once.
func TestVersityKilled(t *testing.T) {
	const members, workers, kills = 60, 8, 5
	g := startGateway(t, false)
	o := newObjectStore(t, "http://"+g.addr, false)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var failed atomic.Int64
	until := func(done func() error) {
		for ctx.Err() == nil && done() != nil {
			failed.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(rand.N(20 * time.Millisecond)):
			}
		}
	}
	for range workers {
		p := o.open(t, nil)
		wg.Go(func() {
			for round := 0; round < 3; round++ {
				for _, i := range rand.Perm(members) {
					until(func() error {
						err := p.Create(ctx, storage(i))
						if errors.Is(err, provision.ErrTombstoned) {
							return nil
						}
						return err
					})
					if i%2 == 0 && round > 0 {
						until(func() error { return p.Remove(ctx, generation(storage(i), 2)) })
					}
				}
			}
		})
	}
	for range kills {
		g.quit()
		g.start()
	}
	wg.Wait()
	must(t, ctx.Err())
	if failed.Load() < kills {
		t.Errorf("only %d calls failed: the kills met nobody", failed.Load())
	}
	found, err := o.open(t, nil).List(t.Context(), "", members+1)
	must(t, err)
	if len(found) != members {
		t.Errorf("%d members of %d", len(found), members)
	}
	for i, r := range found {
		want, ledger := provision.ResourceLive, "create "
		if i%2 == 0 {
			want, ledger = provision.ResourceTombstone, "create delete "
		}
		if r.State != want {
			t.Errorf("%+v, want %s", r, want)
		}
		expect(t, o.ledger, storage(i), ledger)
	}
}
