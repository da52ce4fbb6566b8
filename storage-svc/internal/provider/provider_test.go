package provider_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// TestMain lets the test program run itself as a second process.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CHILD_DIR"); dir != "" {
		if err := createAll(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func createAll(ctx context.Context, dir string) error {
	ledger := provider.NewLedger(filepath.Join(dir, "ledger"), nil)
	err := ledger.Begin()
	known := new(identities)
	p := provider.NewFS(filepath.Join(dir, "storages"), known, ledger)
	if err == nil {
		_, err = provider.Identify(ctx, p, known, true)
	}
	for i := 0; err == nil && i < 40; i++ {
		err = p.Create(ctx, storage(i))
	}
	return err
}

func storage(i int) provision.Storage {
	return provision.Storage{MemberID: fmt.Sprintf("01999e5c-0000-7000-8000-%012x", i), Generation: 1, QuotaBytes: 7}
}

func open(t *testing.T, dir string) (*provider.FS, string) {
	t.Helper()
	path := filepath.Join(dir, "ledger")
	ledger := newLedger(t, path)
	return openFS(t, filepath.Join(dir, "storages"), ledger), path
}

// openFS opens a directory and adopts it as it is.
func openFS(t *testing.T, dir string, ledger *provider.Ledger) *provider.FS {
	t.Helper()
	known := new(identities)
	p := provider.NewFS(dir, known, ledger)
	_, err := provider.Identify(t.Context(), p, known, true)
	must(t, err)
	return p
}

func lines(t *testing.T, path string) []provider.Line {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var found []provider.Line
	for s := bufio.NewScanner(f); s.Scan(); {
		var l provider.Line
		if json.Unmarshal(s.Bytes(), &l) == nil {
			found = append(found, l)
		}
	}
	return found
}

// operations returns the member's operations in the ledger, in order.
func operations(t *testing.T, path string, s provision.Storage) string {
	t.Helper()
	ops := ""
	if path == "" {
		return ops
	}
	for _, l := range lines(t, path) {
		if l.MemberID == s.MemberID {
			ops += string(l.Op) + " "
		}
	}
	return ops
}

func expect(t *testing.T, path string, s provision.Storage, want string) {
	t.Helper()
	if got := operations(t, path, s); got != want && path != "" {
		t.Errorf("ledger has %q, want %q", got, want)
	}
}

func ownerOf(dir string, s provision.Storage) string {
	return filepath.Join(dir, "storages", s.MemberID[34:], s.MemberID, "owner")
}

func fsPlace(t *testing.T) place {
	dir := t.TempDir()
	path, known := filepath.Join(dir, "storages"), new(identities)
	_, err := provider.Identify(t.Context(), provider.NewFS(path, known, nil), known, false)
	must(t, err)
	return place{
		open: func(t *testing.T) provision.Provider {
			return provider.NewFS(path, known, newLedger(t, filepath.Join(dir, "ledger")))
		},
		ledger: filepath.Join(dir, "ledger"), known: known,
		identify: func(t *testing.T, content string) {
			file := filepath.Join(path, ".identity")
			must(t, os.RemoveAll(file))
			if content != "" {
				must(t, os.WriteFile(file, []byte(content), 0o600))
			}
		},
		write: func(t *testing.T, s provision.Storage, name, content string) {
			path := filepath.Join(filepath.Dir(ownerOf(dir, s)), name)
			must(t, os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(content), 0o600))
		},
		names: func(t *testing.T, s provision.Storage) (names []string) {
			entries, err := os.ReadDir(filepath.Dir(ownerOf(dir, s)))
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			must(t, err)
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return names
		},
		unmark: func(t *testing.T, s provision.Storage) { must(t, os.Remove(ownerOf(dir, s))) },
	}
}

func TestFSConforms(t *testing.T) { conforms(t, fsPlace) }

// Without a ledger nothing is locked: the marker alone must be enough.
func TestFSConformsWithoutLedger(t *testing.T) {
	for _, part := range []func(*testing.T, place){oneOfManyCreates, removalWinsRaces} {
		at, dir := fsPlace(t), t.TempDir()
		at.ledger = ""
		at.open = func(t *testing.T) provision.Provider { return openFS(t, dir, nil) }
		part(t, at)
	}
}

func TestLedgerSurvivesALineCutOff(t *testing.T) {
	dir := t.TempDir()
	p, path := open(t, dir)
	if err := p.Create(t.Context(), storage(1)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"at":"2026-`)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	again, _ := open(t, dir)
	if err := errors.Join(again.Create(t.Context(), storage(1)), again.Create(t.Context(), storage(2))); err != nil {
		t.Fatal(err)
	}
	expect(t, path, storage(1), "create ")
	expect(t, path, storage(2), "create ")
}

func TestProcessesShareDirectoryAndLedger(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			child := exec.CommandContext(t.Context(), self)
			child.Env = append(os.Environ(), "CHILD_DIR="+dir)
			if out, err := child.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	path := filepath.Join(dir, "ledger")
	for i := range 40 {
		expect(t, path, storage(i), "create ")
	}
	if n := len(lines(t, path)); n != 40 {
		t.Errorf("%d lines", n)
	}
}

// A suspended holder of the lock costs the waiting worker an attempt, but does not block it.
func TestLockIsGivenUpWithTheContext(t *testing.T) {
	dir := t.TempDir()
	p, _ := open(t, dir)
	if err := p.Create(t.Context(), storage(1)); err != nil {
		t.Fatal(err)
	}
	unlock := flock(t, filepath.Dir(ownerOf(dir, storage(1))))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Create(ctx, storage(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v", err)
	}
	unlock()
	if err := p.Create(t.Context(), storage(1)); err != nil {
		t.Error(err)
	}
}

func TestFaults(t *testing.T) {
	p, _ := open(t, t.TempDir())
	fault := provider.Fault{Probability: 1}
	class := func(mode provider.Mode) string {
		fault.Mode = mode
		f := &provider.Faulty{Provider: p, Load: func(context.Context) (provider.Fault, error) { return fault, nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := f.Create(ctx, storage(1))
		var failure *provision.Failure
		switch {
		case err == nil:
			return "ok"
		case errors.As(err, &failure):
			return string(failure.Class) + strings.TrimPrefix(failure.RetryAfter.String(), "0s")
		case errors.Is(err, context.DeadlineExceeded):
			return "timeout"
		}
		return "unknown"
	}
	for mode, want := range map[provider.Mode]string{
		provider.ModeNone: "ok", provider.ModeOutage: "outage", provider.ModeReject: "rejected",
		provider.ModeHang: "timeout", provider.ModeSlow: "ok", provider.ModeFlaky: "unknown",
		provider.ModeThrottle: "throttled",
	} {
		if got := class(mode); got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
	}
	fault.LatencyMS = 1000
	if got := class(provider.ModeSlow); got != "timeout" {
		t.Errorf("slower than the deadline: %s", got)
	}
	if got := class(provider.ModeThrottle); got != "throttled1s" {
		t.Errorf("come back later: %s", got)
	}
	fault.Probability = 0
	if got := class(provider.ModeOutage); got != "ok" {
		t.Errorf("probability 0: %s", got)
	}
}

func flock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}
