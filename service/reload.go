package service

import (
	"log/slog"
	"os"
	"slices"
	"sync"
)

// reloaded is a value that is loaded from files, and reloaded when they change. There is nothing to start or
// stop: each use calls stat on the files, so that a change takes effect with the next use. stat follows
// symbolic links, which Kubernetes swaps to change files. If the files are missing or do not load, the last
// value stays in force, and that is logged once for each change. Safe for concurrent use.
type reloaded[T any] struct {
	paths []string
	load  func() (T, error)
	log   *slog.Logger

	mu    sync.Mutex
	seen  []os.FileInfo // of the last load, even if it failed; nil for a missing file
	value T
}

// newReloaded fails if load does.
func newReloaded[T any](log *slog.Logger, load func() (T, error), paths ...string) (*reloaded[T], error) {
	r := &reloaded[T]{paths: paths, load: load, log: log}
	r.seen = r.stat()
	var err error
	r.value, err = load()
	return r, err
}

func (r *reloaded[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.stat()
	if slices.EqualFunc(now, r.seen, sameFile) {
		return r.value
	}
	r.seen = now // before the load: the next use sees changes made during it
	value, err := r.load()
	if err != nil {
		r.log.Error("changed files are not used", "files", r.paths, "error", err)
		return r.value
	}
	r.value = value
	r.log.Info("changed files are used from now on", "files", r.paths)
	return r.value
}

func (r *reloaded[T]) stat() []os.FileInfo {
	infos := make([]os.FileInfo, len(r.paths))
	for i, path := range r.paths {
		infos[i], _ = os.Stat(path) // load reports the error
	}
	return infos
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
