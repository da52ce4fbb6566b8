package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	ownerFile  = "owner"
	tmpDir     = ".tmp"
	staleAfter = time.Hour   // for temporary files of processes that died
	lookFor    = time.Minute // how old the names that a listing has read ahead may become
)

// FS keeps storages in a local directory, shared by any number of processes:
//
//	<dir>/<shard>/<member id>/owner   the marker
//	<dir>/<shard>/<member id>/…       the member's data
//
// The marker appears by link(2) and changes by rename(2), both of a complete,
// synced file, so it is never seen half-written, and of two creators exactly one
// succeeds. Everything is synced before success is reported.
type FS struct {
	dir    string
	ledger *Ledger

	window int // names that a listing reads ahead

	mu     sync.Mutex
	ahead  []string  // members that follow given, as of looked
	given  string    // the last one that a listing was given
	looked time.Time // at all names
}

// NewFS returns a provider in dir, which it creates. The ledger may be nil.
func NewFS(dir string, ledger *Ledger) (*FS, error) {
	tmp := filepath.Join(dir, tmpDir)
	if err := os.MkdirAll(tmp, 0o750); err != nil {
		return nil, fmt.Errorf("provider directory: %w", err)
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return nil, fmt.Errorf("provider directory: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(tmp, e.Name())) // another process may have been quicker
		}
	}
	return &FS{dir: dir, ledger: ledger, window: 20 * provision.MaxResources}, nil
}

// key returns shard and directory of a member. The shard comes from the last
// digits: a time-ordered id begins like its neighbours.
func (p *FS) key(memberID string) (key, dir string, err error) {
	if !isMemberID(memberID) {
		return "", "", errNoMemberID
	}
	key = memberID[34:] + "/" + memberID
	return key, filepath.Join(p.dir, filepath.FromSlash(key)), nil
}

// Create makes the member's storage exist; it may exist already.
func (p *FS) Create(ctx context.Context, s provision.Storage) error {
	key, dir, err := p.key(s.MemberID)
	if err != nil {
		return err
	}
	return classified(p.locked(ctx, dir, func() error {
		line := Line{Op: OpCreate, MemberID: s.MemberID, Generation: s.Generation, Key: key}
		created, err := p.link(dir, marker{MemberID: s.MemberID, Generation: s.Generation, QuotaBytes: s.QuotaBytes})
		if err != nil {
			return err
		}
		if err := errors.Join(syncDir(dir), syncDir(filepath.Dir(dir))); err != nil {
			return err
		}
		if created {
			return p.ledger.Append(line)
		}
		return p.ledger.AppendMissing(line)
	}))
}

// link creates the marker, or finds that it is the member's already.
func (p *FS) link(dir string, m marker) (created bool, err error) {
	owner := filepath.Join(dir, ownerFile)
	have, err := readMarker(owner)
	if errors.Is(err, fs.ErrNotExist) {
		if err = p.claim(owner, m); !errors.Is(err, fs.ErrExist) {
			return err == nil, err
		}
		have, err = readMarker(owner)
	}
	if err != nil {
		return false, err
	}
	return false, have.admits(m)
}

// claim makes the marker appear, complete. Where there is one, it stays as it is
// and the error is [fs.ErrExist]: of two that saw none, one succeeds.
func (p *FS) claim(owner string, m marker) error {
	tmp, err := p.writeTemp(m)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	return os.Link(tmp, owner)
}

// Remove makes the member's storage not exist, for good. The tombstone comes
// first, then the data goes: until the next call that finds any left.
func (p *FS) Remove(ctx context.Context, s provision.Storage) error {
	key, dir, err := p.key(s.MemberID)
	if err != nil {
		return err
	}
	return classified(p.locked(ctx, dir, func() error {
		line := Line{Op: OpDelete, MemberID: s.MemberID, Generation: s.Generation, Key: key}
		removed, err := p.bury(dir, marker{MemberID: s.MemberID, Generation: s.Generation, Tombstone: true})
		if err != nil {
			return err
		}
		if err := errors.Join(syncDir(dir), syncDir(filepath.Dir(dir))); err != nil {
			return err
		}
		if removed {
			err = p.ledger.Append(line)
		} else {
			err = p.ledger.AppendMissing(line)
		}
		return errors.Join(err, removeData(dir))
	}))
}

// bury replaces the marker by a tombstone and reports whether it was a live one.
func (p *FS) bury(dir string, m marker) (removed bool, err error) {
	owner := filepath.Join(dir, ownerFile)
	have, err := readMarker(owner)
	if err == nil && have.Tombstone {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	removed = err == nil
	tmp, err := p.writeTemp(m)
	if err != nil {
		return false, err
	}
	if err := os.Rename(tmp, owner); err != nil {
		return false, errors.Join(err, os.Remove(tmp))
	}
	return removed, nil
}

// locked creates the member's directory and runs fn. With a ledger it holds a
// lock on the directory meanwhile, which other processes respect: what fn does
// to the marker and the line it writes about it must not be interleaved with
// another's. The marker itself needs no lock, and without a ledger there is none.
func (p *FS) locked(ctx context.Context, dir string, fn func() error) error {
	shard := filepath.Dir(dir)
	if _, err := os.Stat(shard); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(shard, 0o750); err != nil {
			return err
		}
		if err := syncDir(p.dir); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if p.ledger == nil {
		return fn()
	}
	unlock, err := lockFile(ctx, dir)
	if err != nil {
		return err
	}
	return errors.Join(fn(), unlock())
}

// List returns what there is of the members after one, see [provision.Provider].
// One page of twenty reads the names of all members.
func (p *FS) List(ctx context.Context, after string, limit int) ([]provision.Resource, error) {
	for {
		ids, err := p.members(ctx, after, clampLimit(limit))
		if err != nil || len(ids) == 0 {
			return nil, classified(err)
		}
		var found []provision.Resource
		for _, id := range ids {
			r, err := p.resource(id)
			if err != nil {
				return nil, classified(err)
			}
			if r.State != "" {
				found = append(found, r)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
		after = ids[len(ids)-1] // nothing but empty directories
	}
}

// members returns the first ids of directories after one, in order: from the last
// look at all names, if they follow what that look has given so far.
func (p *FS) members(ctx context.Context, after string, limit int) (ids []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ahead) == 0 || after != p.given || time.Since(p.looked) > lookFor {
		p.looked = time.Now()
		if p.ahead, err = p.look(ctx, after); err != nil {
			p.ahead = nil
			return nil, err
		}
	}
	n := min(limit, len(p.ahead))
	ids, p.ahead = p.ahead[:n:n], p.ahead[n:]
	if n > 0 {
		p.given = ids[n-1]
	}
	return ids, nil
}

// look reads the names of all members and returns the first ones after one, in order:
// a window of them.
func (p *FS) look(ctx context.Context, after string) (ids []string, err error) {
	shards, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, err
	}
	first := func() {
		slices.Sort(ids)
		ids = ids[:min(p.window, len(ids))]
	}
	for _, shard := range shards {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(shard.Name()) != 2 || !shard.IsDir() {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(p.dir, shard.Name()))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if id := e.Name(); id > after && isMemberID(id) {
				ids = append(ids, id)
			}
		}
		if len(ids) > 2*p.window {
			first()
		}
	}
	first()
	return ids, nil
}

// resource says what there is of a member. A directory without marker and data
// is none: a creation has just begun, or never went on. It has no state.
func (p *FS) resource(id string) (provision.Resource, error) {
	_, dir, err := p.key(id)
	if err != nil {
		return provision.Resource{}, err
	}
	content, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err == nil {
		return resourceOf(id, content), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return provision.Resource{}, err
	}
	entries, err := os.ReadDir(dir)
	r := provision.Resource{MemberID: id}
	// A marker that came between the two looks is left to the next listing.
	marked := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ownerFile })
	if len(entries) > 0 && !marked {
		r.State = provision.ResourceOrphaned
	}
	return r, err
}

func (p *FS) writeTemp(m marker) (name string, err error) {
	f, err := os.CreateTemp(filepath.Join(p.dir, tmpDir), "owner-")
	if err != nil {
		return "", err
	}
	err = json.NewEncoder(f).Encode(m)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func readMarker(path string) (m marker, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	return parseMarker(b)
}

func removeData(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != ownerFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// classified calls errors that every member meets alike an outage. Paths are
// left out: errors are shown to operators, grouped by their words.
func classified(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		err = fmt.Errorf("%s: %w", path.Op, path.Err)
	case errors.As(err, &link):
		err = fmt.Errorf("%s: %w", link.Op, link.Err)
	}
	for _, everybody := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.ESTALE, fs.ErrPermission, fs.ErrNotExist} {
		if errors.Is(err, everybody) {
			return &provision.Failure{Class: provision.ClassOutage, Err: err}
		}
	}
	return err
}
