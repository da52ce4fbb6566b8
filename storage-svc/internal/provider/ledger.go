package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// Op is the operation that a ledger line records.
type Op string

// The operations.
const (
	OpCreate Op = "create"
	OpDelete Op = "delete"
)

// Line is one line of the ledger, as JSON.
type Line struct {
	At         time.Time `json:"at"`
	Op         Op        `json:"op"`
	MemberID   string    `json:"member_id"`
	Generation int64     `json:"generation"`
	Key        string    `json:"key"`
	Act        string    `json:"act,omitempty"` // identifies the change, if the marker does
}

// Ledger is a file to which every effective create and delete is appended, for an auditor who trusts nobody: a
// storage that was created twice shows up as two lines. Processes share the file. A nil Ledger records nothing.
//
// A process may die after the marker changed and before the line is written. The change was effective, but the
// process that repeats the operation finds it done already. That process therefore writes the line if it is
// missing ([Ledger.AppendMissing]). A process that did change the marker writes its line without checking, so
// that a second create can never hide. Callers hold the member's lock from the change to the line; otherwise a
// repeater could write the line of a process that is still alive. If the marker itself identifies the change
// that made it, no lock is needed: each process that reads the marker writes the line unless it exists
// ([Ledger.AppendOnce]).
type Ledger struct {
	path  string
	known Identities
	whole atomic.Bool // its last line is complete

	mu   sync.Mutex
	seen map[string]Op   // last operation by member, in the part read so far
	acts map[string]bool // acts in the part read so far
	read int64           // bytes read so far
}

// NewLedger returns the ledger in a file, which it does not touch yet. A missing ledger is begun only if the
// database has no storages, and never if known is nil.
func NewLedger(path string, known Identities) *Ledger {
	return &Ledger{path: path, known: known, seen: make(map[string]Op), acts: make(map[string]bool)}
}

var errNoLedger = &IdentityError{"there are storages but their ledger is missing: mount the right volume, or set " +
	"PROVIDER_LEDGER to the right file; storage-svc migrate --adopt-provider begins a new one"}

// Ready makes sure, before anything is changed, that there is a ledger to write to. Any error is an outage: a
// ledger whose volume is not mounted must not be begun anew.
func (l *Ledger) Ready(ctx context.Context) error {
	if l == nil {
		return nil
	}
	_, err := os.Stat(l.path)
	switch {
	case err == nil && l.whole.Load():
		return nil
	case err == nil:
		return unrecorded(l.end(0))
	case !errors.Is(err, fs.ErrNotExist):
		return unrecorded(err)
	}
	has := l.known == nil || l.whole.Load() // it existed before
	if !has {
		if has, err = l.known.HasStorages(ctx); err != nil {
			return unrecorded(err)
		}
	}
	if has {
		return &provision.Failure{Class: provision.ClassOutage, Err: errNoLedger}
	}
	return l.Begin()
}

// Begin creates the file if it is missing, whatever the database knows.
func (l *Ledger) Begin() error {
	if err := l.end(os.O_CREATE); err != nil {
		return unrecorded(err)
	}
	dir, err := os.Open(filepath.Dir(l.path))
	if err != nil {
		return unrecorded(err)
	}
	return unrecorded(errors.Join(dir.Sync(), dir.Close()))
}

// end completes a last line that a crash of the machine has cut off.
func (l *Ledger) end(create int) error {
	err := l.exclusively(create, func(f *os.File) error {
		info, err := f.Stat()
		if err != nil || info.Size() == 0 {
			return err
		}
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err != nil || last[0] == '\n' {
			return err
		}
		_, err = f.WriteString("\n")
		return err
	})
	l.whole.Store(err == nil)
	return err
}

// Append writes the line and syncs it.
func (l *Ledger) Append(line Line) error {
	if l == nil {
		return nil
	}
	return unrecorded(l.exclusively(0, func(f *os.File) error { return line.writeTo(f) }))
}

// unrecorded classifies an error as an outage, whatever it is: no member's line can be written.
func unrecorded(err error) error {
	if err == nil {
		return nil
	}
	return outage("ledger", err)
}

// AppendOnce writes the line unless there is one with the same Act, and syncs.
func (l *Ledger) AppendOnce(line Line) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return unrecorded(l.exclusively(0, func(f *os.File) error {
		if err := l.readAdded(f); err != nil || l.acts[line.Act] {
			return err
		}
		return line.writeTo(f)
	}))
}

func (line Line) writeTo(f *os.File) error {
	line.At = time.Now().UTC()
	b, err := json.Marshal(line)
	if err == nil {
		_, err = f.Write(append(b, '\n')) // one write: a killed process leaves the whole line or nothing
	}
	return err
}

// AppendMissing writes the line unless the member has one for this operation. A delete is missing only after a
// create: removing what never existed has no effect to record.
func (l *Ledger) AppendMissing(line Line) error {
	if l == nil {
		return nil
	}
	last, err := l.last(line.MemberID)
	if err != nil {
		return unrecorded(err)
	}
	if (line.Op == OpCreate && last == "") || (line.Op == OpDelete && last == OpCreate) {
		return l.Append(line)
	}
	return nil
}

// last returns the member's last operation, after reading the lines that were added.
func (l *Ledger) last(memberID string) (Op, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.Open(l.path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	err = l.readAdded(f)
	return l.seen[memberID], err
}

// readAdded reads the lines that were added; the caller holds mu.
func (l *Ledger) readAdded(f *os.File) error {
	b, err := io.ReadAll(io.NewSectionReader(f, l.read, 1<<62))
	if err != nil {
		return err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	l.read += int64(len(b))
	for text := range bytes.Lines(b) {
		var line Line
		if json.Unmarshal(text, &line) == nil { // otherwise a crash of the machine has cut it off
			l.seen[line.MemberID] = line.Op
			l.acts[line.Act] = line.Act != ""
		}
	}
	return nil
}

// exclusively opens the file for appending, locks it against other processes, and runs fn. It syncs after
// unlocking, when others may already write. Only [Ledger.Begin] creates the file: a missing file must not be
// replaced by an empty one.
func (l *Ledger) exclusively(create int, fn func(f *os.File) error) error {
	f, err := os.OpenFile(l.path, create|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return os.NewSyscallError("flock", err)
	}
	err = fn(f)
	return errors.Join(err, syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Sync())
}
