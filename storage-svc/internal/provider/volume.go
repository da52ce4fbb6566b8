package provider

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// volume is the open directory of an [FS], for one call. Names are relative to it, with slashes. No symbolic
// link leads out of it.
type volume struct{ *os.Root }

const readsIdentity = "read the provider's identity"

// identity reads the identity of the directory.
func (v volume) identity() (string, error) {
	f, err := v.Open(idFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errAnonymous
	}
	if err != nil {
		return "", outage(readsIdentity, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, longestIdentity))
	if err != nil {
		return "", outage(readsIdentity, err)
	}
	return parseIdentity(content)
}

// identify writes the identity in the same way as a marker.
func (v volume) identify(id string, replace bool) error {
	tmp, err := v.writeTemp(formatIdentity(id))
	if err != nil {
		return err
	}
	write := v.Link
	if replace {
		write = v.Rename
	}
	return errors.Join(write(tmp, idFile), v.dropTemp(tmp), v.sync("."))
}

// link creates the marker, or checks that the existing one is the member's.
func (v volume) link(dir string, m marker) (created bool, err error) {
	owner := path.Join(dir, ownerFile)
	have, err := v.marker(owner)
	if errors.Is(err, fs.ErrNotExist) {
		if err = v.claim(owner, m); !errors.Is(err, fs.ErrExist) {
			return err == nil, err
		}
		have, err = v.marker(owner)
	}
	if err != nil {
		return false, err
	}
	return false, have.admits(m)
}

// claim makes the complete marker appear. If there is one already, it stays as it is, and the error is
// [fs.ErrExist]: of two processes that saw none, one succeeds.
func (v volume) claim(owner string, m marker) error {
	tmp, err := v.writeMarker(m)
	if err != nil {
		return err
	}
	defer func() { _ = v.dropTemp(tmp) }() // tidy removes what is left
	return v.Link(tmp, owner)
}

// writeTombstone replaces the marker by a tombstone, and reports whether there was a live one.
func (v volume) writeTombstone(dir string, m marker) (removed bool, err error) {
	owner := path.Join(dir, ownerFile)
	have, err := v.marker(owner)
	if err == nil && have.Tombstone {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	removed = err == nil
	tmp, err := v.writeMarker(m)
	if err != nil {
		return false, err
	}
	if err := v.Rename(tmp, owner); err != nil {
		return false, errors.Join(err, v.dropTemp(tmp))
	}
	return removed, nil
}

func (v volume) marker(name string) (m marker, err error) {
	b, err := v.ReadFile(name)
	if err != nil {
		return m, err
	}
	return parseMarker(b)
}

// resource returns what the directory has of a member. A directory without marker and data has no state: a
// creation has just begun, or never finished.
func (v volume) resource(id string) (provision.Resource, error) {
	dir, err := key(id)
	if err != nil {
		return provision.Resource{}, err
	}
	content, err := v.ReadFile(path.Join(dir, ownerFile))
	if err == nil {
		return resourceOf(id, content), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return provision.Resource{}, err
	}
	entries, err := v.entries(dir)
	r := provision.Resource{MemberID: id}
	// A marker that appeared between the two reads is left to the next listing.
	marked := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ownerFile })
	if len(entries) > 0 && !marked {
		r.State = provision.ResourceOrphaned
	}
	return r, err
}

func (v volume) removeData(dir string) error {
	entries, err := v.entries(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != ownerFile {
			err = errors.Join(err, v.RemoveAll(path.Join(dir, e.Name())))
		}
	}
	return err
}

// makeDir creates a member's directory and its shard.
func (v volume) makeDir(dir string) error {
	switch err := v.Mkdir(path.Dir(dir), 0o750); {
	case err == nil:
		if err := v.sync("."); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	if err := v.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// lock locks a directory against other processes and goroutines. It waits until ctx ends, because the holder
// may be suspended. When a holder dies, its lock is released.
func (v volume) lock(ctx context.Context, dir string) (unlock func() error, err error) {
	f, err := v.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(os.NewSyscallError("flock", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock: %w", ctx.Err()), f.Close())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (v volume) writeMarker(m marker) (name string, err error) {
	content, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	return v.writeTemp(append(content, '\n'))
}

// writeTemp writes a file that is to be linked or renamed. Its errors concern no member more than others, so
// they are an outage.
func (v volume) writeTemp(content []byte) (name string, err error) {
	name = path.Join(tmpDir, rand.Text())
	f, err := v.create(name)
	if errors.Is(err, fs.ErrNotExist) { // the directory was removed, or does not exist yet
		if err = v.Mkdir(tmpDir, 0o750); err == nil || errors.Is(err, fs.ErrExist) {
			f, err = v.create(name)
		}
	}
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		_ = v.dropTemp(name)
		return "", outage("temporary file in "+tmpDir, err)
	}
	return name, nil
}

func (v volume) create(name string) (*os.File, error) {
	return v.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
}

// dropTemp removes a temporary file if it is still there.
func (v volume) dropTemp(name string) error {
	if err := v.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tidy removes the temporary files of processes that died.
func (v volume) tidy() error {
	entries, err := v.entries(tmpDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		name := path.Join(tmpDir, e.Name())
		if info, err := v.Lstat(name); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = v.dropTemp(name) // another process may have been faster
		}
	}
	return err
}

// entries lists a directory.
func (v volume) entries(dir string) ([]fs.DirEntry, error) {
	f, err := v.Open(dir)
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	return entries, errors.Join(err, f.Close())
}

// sync makes links and renames in directories survive a crash.
func (v volume) sync(dirs ...string) error {
	for _, dir := range dirs {
		d, err := v.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}
