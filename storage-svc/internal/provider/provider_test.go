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
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// TestMain lets the test program be its own second process.
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
	ledger, err := provider.OpenLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		return err
	}
	p, err := provider.NewFS(filepath.Join(dir, "storages"), ledger)
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
	ledger, err := provider.OpenLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := provider.NewFS(filepath.Join(dir, "storages"), ledger)
	if err != nil {
		t.Fatal(err)
	}
	return p, path
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
	for _, l := range lines(t, path) {
		if l.MemberID == s.MemberID {
			ops += string(l.Op) + " "
		}
	}
	return ops
}

func expect(t *testing.T, path string, s provision.Storage, want string) {
	t.Helper()
	if got := operations(t, path, s); got != want {
		t.Errorf("ledger has %q, want %q", got, want)
	}
}

func ownerOf(dir string, s provision.Storage) string {
	return filepath.Join(dir, "storages", s.MemberID[34:], s.MemberID, "owner")
}

// conformance is what every provider must do.
func conformance(t *testing.T, p provision.Provider) {
	ctx, s := t.Context(), storage(1)
	for range 2 {
		if err := p.Create(ctx, s); err != nil {
			t.Fatalf("create: %v", err)
		}
	}
	for range 2 {
		if err := p.Remove(ctx, s); err != nil {
			t.Fatalf("remove: %v", err)
		}
	}
	var f *provision.Failure
	if err := p.Create(ctx, s); !errors.Is(err, provision.ErrTombstoned) || !errors.As(err, &f) || f.Class != provision.ClassRejected {
		t.Errorf("create after remove: %v", err)
	}
	never := storage(2)
	if err := p.Remove(ctx, never); err != nil {
		t.Errorf("remove of what never existed: %v", err)
	}
	if err := p.Create(ctx, never); !errors.Is(err, provision.ErrTombstoned) {
		t.Errorf("create after that: %v", err)
	}
	if err := p.Create(ctx, provision.Storage{MemberID: "../../etc"}); !errors.As(err, &f) || f.Class != provision.ClassRejected {
		t.Errorf("create outside: %v", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := p.Create(ctx, storage(3)); err != nil {
				t.Errorf("concurrent create: %v", err)
			}
		})
	}
	wg.Wait()
	// Creating races removing: whoever wins, it ends removed.
	for range 4 {
		wg.Go(func() {
			if err := p.Create(ctx, storage(4)); err != nil && !errors.Is(err, provision.ErrTombstoned) {
				t.Errorf("racing create: %v", err)
			}
		})
	}
	wg.Go(func() {
		if err := p.Remove(ctx, storage(4)); err != nil {
			t.Errorf("racing remove: %v", err)
		}
	})
	wg.Wait()
	if err := p.Create(ctx, storage(4)); !errors.Is(err, provision.ErrTombstoned) {
		t.Errorf("create after the race: %v", err)
	}
}

func TestFSConforms(t *testing.T) {
	dir := t.TempDir()
	p, path := open(t, dir)
	conformance(t, p)
	expect(t, path, storage(1), "create delete ")
	expect(t, path, storage(2), "")
	expect(t, path, storage(3), "create ")
	if got := operations(t, path, storage(4)); got != "" && got != "create delete " {
		t.Errorf("ledger of the race: %q", got)
	}
}

func TestFSConformsWithoutLedger(t *testing.T) {
	p, err := provider.NewFS(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	conformance(t, p)
}

func TestListTellsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	p, _ := open(t, dir)
	ctx := t.Context()
	var want []provision.Resource
	for i := range 20 {
		s := storage(i)
		r := provision.Resource{MemberID: s.MemberID, State: provision.ResourceLive, Generation: 1, QuotaBytes: 7}
		err := p.Create(ctx, s)
		owner := ownerOf(dir, s)
		switch i % 5 {
		case 1:
			s.Generation = 2
			r.State, r.Generation, r.QuotaBytes = provision.ResourceTombstone, 2, 0
			err = errors.Join(err, p.Remove(ctx, s))
		case 2:
			r.State, r.Generation, r.QuotaBytes = provision.ResourceOrphaned, 0, 0
			err = errors.Join(err, os.Rename(owner, filepath.Join(filepath.Dir(owner), "zebra")))
		case 3:
			r.State, r.Generation, r.QuotaBytes = provision.ResourceDamaged, 0, 0
			err = errors.Join(err, os.WriteFile(owner, []byte(`{"member_id":"somebody"}`), 0o600))
		case 4:
			r.State = "" // a directory that nobody filled is nothing
			err = errors.Join(err, os.Remove(owner))
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.State != "" {
			want = append(want, r)
		}
	}
	for _, limit := range []int{1, 3, 16, 0, 1_000_000} {
		if got := listAll(t, p, limit); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v\nwant %v", limit, got, want)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if found, err := p.List(ended, "", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", found, err)
	}
}

// listAll reads all pages; limits out of range are corrected.
func listAll(t *testing.T, p provision.Provider, limit int) (all []provision.Resource) {
	t.Helper()
	for after := ""; ; after = all[len(all)-1].MemberID {
		page, err := p.List(t.Context(), after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		if len(page) > min(max(limit, 1), provision.MaxResources) || page[0].MemberID <= after {
			t.Fatalf("%d in a page of %d after %q, from %q", len(page), limit, after, page[0].MemberID)
		}
		all = append(all, page...)
	}
}

func TestRemoveDeletesDataAndKeepsTheTombstone(t *testing.T) {
	dir := t.TempDir()
	p, _ := open(t, dir)
	if err := p.Create(t.Context(), storage(1)); err != nil {
		t.Fatal(err)
	}
	member := filepath.Dir(ownerOf(dir, storage(1)))
	if err := os.MkdirAll(filepath.Join(member, "photos", "cats"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(t.Context(), storage(1)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(member)
	if err != nil || len(entries) != 1 || entries[0].Name() != "owner" {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

// A process that dies between the change and its line leaves a gap that the
// repeated operation fills, once, whoever repeats it.
func TestLedgerIsCompletedAfterACrash(t *testing.T) {
	dir := t.TempDir()
	p, path := open(t, dir)
	s := storage(1)
	if err := p.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	again, _ := open(t, dir)
	for range 2 {
		if err := again.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, path, s, "create ")
	created, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Remove(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, created, 0o640); err != nil {
		t.Fatal(err)
	}
	third, _ := open(t, dir)
	for range 2 {
		if err := third.Remove(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, path, s, "create delete ")
}

// A real double must show: the ledger does not smooth over a lost marker.
func TestLedgerShowsADoubleCreate(t *testing.T) {
	dir := t.TempDir()
	p, path := open(t, dir)
	s := storage(1)
	for range 2 {
		if err := p.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(ownerOf(dir, s)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, path, s, "create create ")
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

// A suspended holder of the lock costs an attempt, not the worker.
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
			return string(failure.Class)
		case errors.Is(err, context.DeadlineExceeded):
			return "timeout"
		}
		return "unknown"
	}
	for mode, want := range map[provider.Mode]string{
		provider.ModeNone: "ok", provider.ModeOutage: "outage", provider.ModeReject: "rejected",
		provider.ModeHang: "timeout", provider.ModeSlow: "ok", provider.ModeFlaky: "unknown",
	} {
		if got := class(mode); got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
	}
	fault.LatencyMS = 1000
	if got := class(provider.ModeSlow); got != "timeout" {
		t.Errorf("slower than the deadline: %s", got)
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
