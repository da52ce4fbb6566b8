//go:build verify

package provider_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
)

// Real mounts, which only a process of this test sees: a volume that is unmounted and mounted again under a
// running service, a read-only one, a full one, and one that is mounted over another.
func TestFSRealMounts(t *testing.T) {
	if dir := testenv.SmallDisk(t, "16m"); dir != "" {
		mounts(t, dir)
	}
}

func mounts(t *testing.T, top string) {
	point, volume, other := filepath.Join(top, "storages"), filepath.Join(top, "volume"), filepath.Join(top, "other")
	must(t, os.Mkdir(point, 0o750), os.Mkdir(volume, 0o750), os.Mkdir(other, 0o750))
	bind := func(from string) error { return syscall.Mount(from, point, "", syscall.MS_BIND, "") }
	known := new(identities)
	p := provider.NewFS(point, known, nil)
	must(t, bind(volume))
	_, err := provider.Identify(t.Context(), p, known, false)
	must(t, err, p.Create(t.Context(), storage(1)))

	must(t, syscall.Unmount(point, 0)) // nothing is held open between calls
	outage(t, "unmounted", everyCall(t, p)...)
	holds(t, point)
	must(t, bind(other))
	outage(t, "another volume", everyCall(t, p)...)
	holds(t, other)
	must(t, syscall.Unmount(point, 0), bind(volume))

	must(t, syscall.Mount("", point, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	err = p.Create(t.Context(), storage(2))
	outage(t, "read-only", err, p.Remove(t.Context(), storage(1)))
	if !errors.Is(err, syscall.EROFS) {
		t.Errorf("read-only: %v", err)
	}
	must(t, syscall.Mount("", point, "", syscall.MS_BIND|syscall.MS_REMOUNT, ""))
	must(t, everyCall(t, p)...)

	must(t, syscall.Mount("small", other, "tmpfs", 0, "size=64k"))
	full := provider.NewFS(other, known, nil)
	_, err = provider.Identify(t.Context(), full, known, true)
	must(t, err, full.Create(t.Context(), storage(1)))
	err = os.WriteFile(filepath.Join(other, "filler"), []byte(strings.Repeat("x", 1<<17)), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	outage(t, "full", full.Create(t.Context(), storage(2)))
	must(t, os.Remove(filepath.Join(other, "filler")), full.Create(t.Context(), storage(2)))
}
