package service

import (
	"log/slog"
	"os"
	"slices"
	"sync"
)

// reloaded is a value that is made of files, and made anew when they change.
// There is nothing to start or stop: each use looks at the files, which costs a
// stat each, so that a change holds from the next use on. That follows symbolic
// links, as Kubernetes swaps them. Files that make no value, or are gone, leave
// the last one in force, which is logged once for each change. Safe for
// concurrent use.
type reloaded[T any] struct {
	paths []string
	load  func() (T, error)
	log   *slog.Logger

	mu    sync.Mutex
	seen  []os.FileInfo // of value, or of what made none; nil for a file that is not there
	value T
}

// newReloaded fails if load does.
func newReloaded[T any](log *slog.Logger, load func() (T, error), paths ...string) (*reloaded[T], error) {
	r := &reloaded[T]{paths: paths, load: load, log: log}
	r.seen = r.look()
	var err error
	r.value, err = load()
	return r, err
}

func (r *reloaded[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.look()
	if slices.EqualFunc(now, r.seen, sameFile) {
		return r.value
	}
	r.seen = now // before loading: what changes meanwhile is seen next time
	value, err := r.load()
	if err != nil {
		r.log.Error("changed files are not used", "files", r.paths, "error", err)
		return r.value
	}
	r.value = value
	r.log.Info("changed files are used from now on", "files", r.paths)
	return r.value
}

func (r *reloaded[T]) look() []os.FileInfo {
	infos := make([]os.FileInfo, len(r.paths))
	for i, path := range r.paths {
		infos[i], _ = os.Stat(path) // load says what is wrong
	}
	return infos
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
