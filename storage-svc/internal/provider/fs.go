package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	ownerFile   = "owner"
	tmpDir      = ".tmp"
	idFile      = ".identity"
	staleAfter  = time.Hour   // for temporary files of processes that died
	aheadMaxAge = time.Minute // maximum age of the names that a listing has read ahead
)

// FS keeps storages in a local directory, shared by any number of processes:
//
//	<dir>/.identity                   written by migrate, see [Identify]
//	<dir>/<shard>/<member id>/owner   the marker
//	<dir>/<shard>/<member id>/…       the member's data
//
// The marker appears by link(2) and changes by rename(2), both of a complete, synced file. So it is never seen
// half-written, and of two creators exactly one succeeds. Everything is synced before success is reported.
type FS struct {
	dir      string
	expected expectation
	ledger   *Ledger

	window int // names that a listing reads ahead

	mu     sync.Mutex
	ahead  []string  // members that follow given, as read at readAt
	given  string    // the last member that a listing returned
	readAt time.Time // when all names were read
}

// NewFS returns a provider in dir, which it does not touch yet. The ledger may be nil.
func NewFS(dir string, known Identities, ledger *Ledger) *FS {
	return &FS{dir: dir, expected: expectation{known: known}, ledger: ledger, window: 20 * provision.MaxResources}
}

// Prepare implements [Place].
func (p *FS) Prepare(context.Context) error { return classified(os.MkdirAll(p.dir, 0o750)) }

func (p *FS) identity(context.Context) (id string, err error) {
	err = p.anywhere(func(v volume) error { id, err = v.identity(); return err })
	return id, err
}

func (p *FS) identify(_ context.Context, id string, replace bool) error {
	return p.anywhere(func(v volume) error { return classified(v.identify(id, replace)) })
}

func (p *FS) empty(ctx context.Context) (empty bool, err error) {
	err = p.anywhere(func(v volume) error {
		ids, err := p.readIDs(ctx, v, "")
		empty = len(ids) == 0
		return classified(err)
	})
	return empty, err
}

// Check checks that the directory is the right one, and removes the temporary files of processes that died.
func (p *FS) Check(ctx context.Context) error {
	return p.at(ctx, func(v volume) error { return v.tidy() })
}

// at opens the directory, checks that it is the right one, and runs fn on that same handle. Whatever is mounted
// or unmounted at the path meanwhile, fn works on the directory that was checked, or gets an error.
func (p *FS) at(ctx context.Context, fn func(volume) error) error {
	return p.anywhere(func(v volume) error {
		id, err := v.identity()
		if err := p.expected.met(ctx, id, err); err != nil {
			return err
		}
		return classified(fn(v))
	})
}

// anywhere does the same without the check.
func (p *FS) anywhere(fn func(volume) error) error {
	root, err := os.OpenRoot(p.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &provision.Failure{Class: provision.ClassOutage, Err: errNoDirectory}
	case err != nil:
		return outage("the provider directory", err)
	}
	defer root.Close()
	return fn(volume{root})
}

// key returns the directory of a member: shard and id. The shard comes from the last digits, because
// time-ordered ids begin with the same digits.
func key(memberID string) (string, error) {
	if !isMemberID(memberID) {
		return "", errNoMemberID
	}
	return memberID[34:] + "/" + memberID, nil
}

// Create makes the member's storage exist; it may exist already.
func (p *FS) Create(ctx context.Context, s provision.Storage) error {
	dir, err := key(s.MemberID)
	if err != nil {
		return err
	}
	return p.locked(ctx, dir, func(v volume) error {
		line := Line{Op: OpCreate, MemberID: s.MemberID, Generation: s.Generation, Key: dir}
		created, err := v.link(dir, marker{MemberID: s.MemberID, Generation: s.Generation, QuotaBytes: s.QuotaBytes})
		if err != nil {
			return err
		}
		if err := v.sync(dir, path.Dir(dir)); err != nil {
			return err
		}
		if created {
			return p.ledger.Append(line)
		}
		return p.ledger.AppendMissing(line)
	})
}

// Remove makes the member's storage not exist, for good. It writes the tombstone first, then deletes the data.
// If it fails in between, the next call deletes the data that is left.
func (p *FS) Remove(ctx context.Context, s provision.Storage) error {
	dir, err := key(s.MemberID)
	if err != nil {
		return err
	}
	return p.locked(ctx, dir, func(v volume) error {
		line := Line{Op: OpDelete, MemberID: s.MemberID, Generation: s.Generation, Key: dir}
		removed, err := v.writeTombstone(dir, marker{MemberID: s.MemberID, Generation: s.Generation, Tombstone: true})
		if err != nil {
			return err
		}
		if err := v.sync(dir, path.Dir(dir)); err != nil {
			return err
		}
		if removed {
			err = p.ledger.Append(line)
		} else {
			err = p.ledger.AppendMissing(line)
		}
		return errors.Join(err, v.removeData(dir))
	})
}

// locked creates the member's directory and runs fn. With a ledger, it holds a lock on the directory meanwhile,
// which other processes respect: a change of the marker and its ledger line must not be interleaved with
// another process's. The marker itself needs no lock, so without a ledger there is none.
func (p *FS) locked(ctx context.Context, dir string, fn func(volume) error) error {
	return p.at(ctx, func(v volume) error {
		if err := p.ledger.Ready(ctx); err != nil {
			return err
		}
		if err := v.makeDir(dir); err != nil {
			return err
		}
		if p.ledger == nil {
			return fn(v)
		}
		unlock, err := v.lock(ctx, dir)
		if err != nil {
			return err
		}
		return errors.Join(fn(v), unlock())
	})
}

// List returns the resources of the members that follow after, see [provision.Provider]. Only about one page in
// twenty reads the names of all members.
func (p *FS) List(ctx context.Context, after string, limit int) (found []provision.Resource, err error) {
	err = p.at(ctx, func(v volume) error {
		for len(found) == 0 {
			ids, err := p.members(ctx, v, after, clampLimit(limit))
			if err != nil || len(ids) == 0 {
				return err
			}
			for _, id := range ids {
				r, err := v.resource(id)
				if err != nil {
					return err
				}
				if r.State != "" {
					found = append(found, r)
				}
			}
			after = ids[len(ids)-1] // in case there were only empty directories
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// members returns the first ids of directories after a member, in order. It uses the names that were read last,
// if the call continues where they were left off.
func (p *FS) members(ctx context.Context, v volume, after string, limit int) (ids []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ahead) == 0 || after != p.given || time.Since(p.readAt) > aheadMaxAge {
		p.readAt = time.Now()
		if p.ahead, err = p.readIDs(ctx, v, after); err != nil {
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

// readIDs reads the names of all members and returns the first ones that follow after, in order: at most a window
// of them.
func (p *FS) readIDs(ctx context.Context, v volume, after string) (ids []string, err error) {
	shards, err := v.entries(".")
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
		entries, err := v.entries(shard.Name())
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

// sharedErrors lists the errors that the file system returns to all members alike.
var sharedErrors = []error{
	fs.ErrPermission, fs.ErrNotExist, syscall.EROFS, syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, // the disk
	syscall.ESTALE, syscall.ENOTCONN, syscall.ENODEV, syscall.ENXIO, // its mount
	syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ETIMEDOUT, // its server
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOLCK, // the machine
}

// classified classifies errors that all members meet alike as an outage.
func classified(err error) error {
	var failure *provision.Failure
	if errors.As(err, &failure) {
		return failure
	}
	err = withoutPath(err)
	if slices.ContainsFunc(sharedErrors, func(e error) bool { return errors.Is(err, e) }) {
		return &provision.Failure{Class: provision.ClassOutage, Err: err}
	}
	return err
}

// outage classifies an error that concerns no member more than others: an outage, whatever the error.
func outage(doing string, err error) error {
	return &provision.Failure{Class: provision.ClassOutage, Err: fmt.Errorf("%s: %w", doing, withoutPath(err))}
}

// withoutPath removes paths from an error: errors are shown to operators, grouped by their words.
func withoutPath(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	case errors.As(err, &link):
		return fmt.Errorf("%s: %w", link.Op, link.Err)
	}
	return err
}
