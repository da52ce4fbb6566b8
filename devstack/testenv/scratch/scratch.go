// Package scratch makes temporary directories that are removed even if their owner was killed: the owner holds a
// lock, and the next devstack removes every directory whose lock is free.
package scratch

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	prefix   = "signup-saga-run-"
	lockName = ".lock"
	// settling is how long a directory without a lock is left alone: its owner may be about to lock it.
	settling = time.Minute
)

// Dir is a temporary directory.
type Dir struct {
	// Path is absolute. Every user may enter the directory; protect the files in it.
	Path string
	lock *os.File
}

// New makes a temporary directory below base and locks it.
func New(base string) (*Dir, error) {
	path, err := os.MkdirTemp(base, prefix)
	if err != nil {
		return nil, fmt.Errorf("make a throw-away directory: %w", err)
	}
	// A database server that runs as another user has to pass through.
	if err := os.Chmod(path, 0o755); err != nil { // see above
		return nil, fmt.Errorf("open up %s: %w", path, err)
	}
	lock, err := Lock(filepath.Join(path, lockName))
	if err != nil {
		return nil, err
	}
	return &Dir{Path: path, lock: lock}, nil
}

// Remove deletes the directory with everything in it.
func (d *Dir) Remove() error {
	if err := os.RemoveAll(d.Path); err != nil {
		return fmt.Errorf("remove the throw-away directory: %w", err)
	}
	return d.lock.Close()
}

// Sweep removes the directories below base that a killed owner left. It first calls vacate for each; if that returns
// false, the directory stays until the next sweep. Errors are ignored, so that no leftover prevents a start.
func Sweep(base string, vacate func(dir string) bool) {
	left, err := filepath.Glob(filepath.Join(base, prefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		sweep(dir, vacate)
	}
}

func sweep(dir string, vacate func(string) bool) {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Getuid() {
		return
	}
	name := filepath.Join(dir, lockName)
	if _, err := os.Stat(name); err != nil && time.Since(info.ModTime()) < settling {
		return
	}
	lock, err := Lock(name)
	if err != nil {
		return
	}
	defer lock.Close()
	if vacate(dir) {
		_ = os.RemoveAll(dir)
	}
}

// Lock takes the lock file at path without waiting. Closing the file, or the death of its owner, releases it.
func Lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
