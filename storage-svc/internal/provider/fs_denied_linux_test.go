package provider_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const nobody = 65534

// asNobody runs fn on a thread that may do only what file modes allow, even if the test runs as root. Root's
// rights come back with its user.
func asNobody(t *testing.T, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Getuid() == 0 {
		must(t, syscall.Setfsuid(nobody))
		defer func() { must(t, syscall.Setfsuid(0)) }()
	}
	fn()
}

// A directory that may not be opened or written concerns all members, and works again when its mode is
// restored.
func TestFSDenied(t *testing.T) {
	top := t.TempDir()
	must(t, os.Chmod(filepath.Dir(top), 0o755))
	p, _ := open(t, top)
	must(t, p.Create(t.Context(), storage(1)))
	if os.Getuid() == 0 {
		must(t, filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, nobody, nobody))
		}))
	}
	create := func(s provision.Storage) (err error) {
		asNobody(t, func() { err = p.Create(t.Context(), s) })
		return err
	}
	must(t, create(storage(1)), create(storage(2)))
	dir := filepath.Join(top, "storages")
	shard := filepath.Dir(filepath.Dir(ownerOf(top, storage(1))))
	for name, place := range map[string]struct {
		path   string
		mode   os.FileMode
		member int // the member to create
	}{
		"no directory": {dir, 0, 3}, "no names": {dir, 0o100, 4}, "read-only": {dir, 0o500, 5},
		"no temporary files": {filepath.Join(dir, ".tmp"), 0, 6},
		"no identity":        {filepath.Join(dir, ".identity"), 0, 7},
		"no shard":           {shard, 0, 1 + 256},
	} {
		info, err := os.Stat(place.path)
		must(t, err, os.Chmod(place.path, place.mode))
		denied := create(storage(place.member))
		must(t, os.Chmod(place.path, info.Mode()))
		outage(t, name, denied)
		if !errors.Is(denied, fs.ErrPermission) {
			t.Errorf("%s: %v", name, denied)
		}
		must(t, create(storage(place.member)))
	}
}

// vanishing is a database whose query makes the directory vanish.
type vanishing struct {
	identities
	vanish func()
}

func (v *vanishing) Identity(ctx context.Context) (provider.Identity, error) {
	v.vanish()
	return v.identities.Identity(ctx)
}

// A directory that is removed between the check and the work, or that was the working directory of the process,
// is an outage: nothing is created in its place.
func TestFSDirectoryVanishes(t *testing.T) {
	top := t.TempDir()
	t.Chdir(top)
	dir := filepath.Join(top, "storages")
	known := &vanishing{vanish: func() {}}
	_, err := provider.Identify(t.Context(), provider.NewFS(dir, known, nil), known, true)
	must(t, err)
	known.vanish = func() { must(t, os.RemoveAll(dir)) }
	outage(t, "in between", provider.NewFS(dir, known, nil).Create(t.Context(), storage(1)))
	holds(t, top)
	must(t, os.Remove(top))
	outage(t, "working directory", provider.NewFS("storages", known, nil).Create(t.Context(), storage(1)))
	must(t, os.Mkdir(top, 0o750))
	holds(t, top)
}
