package provider_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// outage fails the test unless all errors are outages.
func outage(t *testing.T, when string, errs ...error) {
	t.Helper()
	for _, err := range errs {
		var f *provision.Failure
		if !errors.As(err, &f) || f.Class != provision.ClassOutage {
			t.Errorf("%s: %v, want an outage", when, err)
		}
	}
}

// everyCall makes all calls, including the removal of an existing storage.
func everyCall(t *testing.T, p provision.Provider) []error {
	t.Helper()
	_, err := p.List(t.Context(), "", 10)
	return []error{p.Create(t.Context(), storage(2)), p.Remove(t.Context(), storage(1)), err}
}

func holds(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	for _, w := range want {
		if !names[w] {
			t.Errorf("%s has no %s", dir, w)
		}
	}
	if len(names) != len(want) {
		t.Errorf("%s has %v, want %v", dir, names, want)
	}
}

// The volume disappears while the service runs, and another one takes its place: what is then at the path is
// left alone, and everything continues when the right one is back.
func TestFSVolumeGoesAwayWhileItRuns(t *testing.T) {
	top := t.TempDir()
	p, _ := open(t, top)
	must(t, p.Create(t.Context(), storage(1)))
	path, volume := filepath.Join(top, "storages"), filepath.Join(top, "volume")
	must(t, os.Rename(path, volume))
	outage(t, "no directory", everyCall(t, p)...)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	must(t, os.Mkdir(path, 0o750))
	outage(t, "an empty mount point", everyCall(t, p)...)
	holds(t, path)
	must(t, os.Remove(path))

	theirs := t.TempDir()
	other, _ := open(t, theirs)
	must(t, other.Create(t.Context(), storage(1)))
	must(t, os.Symlink(filepath.Join(theirs, "storages"), path))
	outage(t, "another deployment's", everyCall(t, p)...)
	found, err := other.List(t.Context(), "", 10)
	must(t, err)
	if len(found) != 1 || found[0].State != provision.ResourceLive {
		t.Errorf("the other deployment has %v", found)
	}
	must(t, os.Remove(path), os.WriteFile(path, nil, 0o600))
	if err := p.Create(t.Context(), storage(2)); err == nil {
		t.Error("a file is no directory")
	}
	must(t, os.Remove(path), os.Rename(volume, path))
	must(t, everyCall(t, p)...)
}

// Names that a listing read ahead are those of the directory at that time. A page of another directory is an
// error, never a short page.
func TestFSListingEndsWithTheVolume(t *testing.T) {
	top := t.TempDir()
	p, _ := open(t, top)
	for i := range 4 {
		must(t, p.Create(t.Context(), storage(i)))
	}
	first, err := p.List(t.Context(), "", 2)
	must(t, err)
	path := filepath.Join(top, "storages")
	must(t, os.Rename(path, path+"-gone"), os.Mkdir(path, 0o750))
	_, err = p.List(t.Context(), first[1].MemberID, 2)
	outage(t, "second page", err)
}

// An identity that cannot be read is an outage, whatever the reason.
func TestFSIdentityThatCannotBeRead(t *testing.T) {
	top := t.TempDir()
	p, _ := open(t, top)
	must(t, p.Create(t.Context(), storage(1)))
	file := filepath.Join(top, "storages", ".identity")
	elsewhere := filepath.Join(top, "elsewhere")
	must(t, os.Rename(file, elsewhere))
	for name, plant := range map[string]func() error{
		"a directory":           func() error { return os.Mkdir(file, 0o750) },
		"a link out":            func() error { return os.Symlink(elsewhere, file) },
		"a link to nothing":     func() error { return os.Symlink("nothing", file) },
		"a link that is a loop": func() error { return os.Symlink(".identity", file) },
	} {
		must(t, plant())
		outage(t, name, everyCall(t, p)...)
		must(t, os.Remove(file))
	}
	must(t, os.Rename(elsewhere, file))
	must(t, everyCall(t, p)...)
}

// Somebody deletes the temporary files, or puts something else in their place.
func TestFSTemporaryDirectory(t *testing.T) {
	top := t.TempDir()
	p, ledger := open(t, top)
	tmp, outside := filepath.Join(top, "storages", ".tmp"), t.TempDir()
	must(t, os.RemoveAll(tmp), p.Create(t.Context(), storage(1)))
	must(t, os.RemoveAll(tmp), p.Remove(t.Context(), storage(1)))
	must(t, os.RemoveAll(tmp), p.Check(t.Context()))
	for name, plant := range map[string]func() error{
		"a file":            func() error { return os.WriteFile(tmp, nil, 0o600) },
		"a link out":        func() error { return os.Symlink(outside, tmp) },
		"a link to nothing": func() error { return os.Symlink("nothing", tmp) },
	} {
		must(t, os.RemoveAll(tmp), plant())
		outage(t, name, p.Create(t.Context(), storage(2)), p.Remove(t.Context(), storage(3)))
		must(t, os.Remove(tmp))
	}
	holds(t, outside)
	must(t, p.Create(t.Context(), storage(2)))
	expect(t, ledger, storage(1), "create delete ")
	expect(t, ledger, storage(2), "create ")
}

// A symbolic link in the directory does not lead out of it.
func TestFSLinksDoNotLeadOut(t *testing.T) {
	top, outside := t.TempDir(), t.TempDir()
	p, _ := open(t, top)
	s := storage(1)
	member := filepath.Dir(ownerOf(top, s))
	shard := filepath.Dir(member)
	marker := filepath.Join(member, "owner")
	for name, planted := range map[string]string{"shard": shard, "member": member, "marker": marker} {
		must(t, os.RemoveAll(shard), os.MkdirAll(filepath.Dir(planted), 0o750), os.Symlink(outside, planted))
		for call, err := range map[string]error{"create": p.Create(t.Context(), s),
			"remove": p.Remove(t.Context(), s)} {
			if err == nil && name != "marker" {
				t.Errorf("%s of a planted %s succeeded", call, name)
			}
		}
		holds(t, outside)
		must(t, os.Remove(planted))
	}
	// Removing a storage removes symbolic links in its data; their targets stay.
	must(t, os.RemoveAll(shard), p.Create(t.Context(), s), os.WriteFile(filepath.Join(outside, "theirs"), nil, 0o600))
	must(t, os.Symlink(outside, filepath.Join(member, "data")), p.Remove(t.Context(), s))
	holds(t, outside, "theirs")
	holds(t, member, "owner")
}

// A storage that was removed by hand is created again when it is commanded.
func TestFSStorageRemovedByHand(t *testing.T) {
	top := t.TempDir()
	p, _ := open(t, top)
	for _, remove := range []func(dir string) error{
		os.RemoveAll,
		func(dir string) error { return os.RemoveAll(filepath.Dir(dir)) },
		func(dir string) error { return os.Remove(filepath.Join(dir, "owner")) },
	} {
		must(t, p.Create(t.Context(), storage(1)), remove(filepath.Dir(ownerOf(top, storage(1)))))
		must(t, p.Create(t.Context(), storage(1)))
	}
	must(t, os.RemoveAll(filepath.Dir(ownerOf(top, storage(1)))), p.Remove(t.Context(), storage(1)))
	rejected(t, p.Create(t.Context(), storage(1)), provision.ErrTombstoned)
}

// A missing ledger is not begun anew: its lines are written when it is back.
func TestLedgerGoesAwayWhileItIsUsed(t *testing.T) {
	at := fsPlace(t)
	p := at.open(t)
	must(t, p.Create(t.Context(), storage(1)), os.Rename(at.ledger, at.ledger+"-gone"))
	outage(t, "no ledger", p.Create(t.Context(), storage(2)))
	if _, err := os.Stat(at.ledger); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a new ledger was created: %v", err)
	}
	must(t, os.Rename(at.ledger+"-gone", at.ledger), p.Create(t.Context(), storage(2)))
	expect(t, at.ledger, storage(1), "create ")
	expect(t, at.ledger, storage(2), "create ")
}

// A ledger that is missing at the start, because its volume is not mounted, is not begun anew: nothing is
// created until it is back. A ledger is begun while there are no storages.
func TestLedgerIsMissingAtTheStart(t *testing.T) {
	both(t, func(t *testing.T, at ground) {
		known, path := &identities{storages: true}, filepath.Join(t.TempDir(), "volume", "ledger")
		at.ledger(provider.NewLedger(path, known))
		place := at.open(known)
		_, err := provider.Identify(t.Context(), place, known, true)
		must(t, err)
		p := place.(provision.Provider)
		_, err = p.List(t.Context(), "", 10)
		must(t, err)
		calls := func() []error {
			return []error{p.Create(t.Context(), storage(1)), p.Remove(t.Context(), storage(2))}
		}
		before := at.names()
		outage(t, "no volume", calls()...)
		must(t, os.Mkdir(filepath.Dir(path), 0o750))
		errs := calls()
		outage(t, "an empty volume", errs...)
		says(t, "an empty volume", errs[0].Error(), "ledger is missing: mount")
		known.fails = errors.New("no database")
		outage(t, "nobody knows", calls()...)
		known.fails, known.storages = nil, false
		if after := at.names(); len(after) != len(before) {
			t.Errorf("there is %v, was %v", after, before)
		}
		must(t, p.Create(t.Context(), storage(1)))
		expect(t, path, storage(1), "create ")

		must(t, os.Rename(path, path+"-gone"))
		outage(t, "gone, and no storage is ready yet", calls()...)
		must(t, os.Rename(path+"-gone", path), p.Remove(t.Context(), storage(1)))
		expect(t, path, storage(1), "create delete ")
	})
}
