package provider_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// identities plays the database. after, if set, is called once a change is written.
type identities struct {
	current  provider.Identity
	storages bool
	fails    error
	after    func() error
}

func (i *identities) Identity(context.Context) (provider.Identity, error) { return i.current, i.fails }

func (i *identities) SetIdentity(_ context.Context, was, next provider.Identity) (bool, error) {
	if i.current != was || i.fails != nil {
		return false, i.fails
	}
	i.current = next
	if i.after != nil {
		return true, i.after()
	}
	return true, nil
}

func (i *identities) HasStorages(context.Context) (bool, error) { return i.storages, i.fails }

// ground is where a directory or a bucket will be created.
type ground struct {
	open   func(known *identities) provider.Place
	names  func() []string // names of what is there
	forget func()          // removes the identity
	ledger func(*provider.Ledger)
}

// both runs a test with a directory and with a bucket that do not exist yet.
func both(t *testing.T, test func(t *testing.T, at ground)) {
	t.Run("fs", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "mnt", "storages")
		var ledger *provider.Ledger
		test(t, ground{
			open:   func(known *identities) provider.Place { return provider.NewFS(dir, known, ledger) },
			ledger: func(l *provider.Ledger) { ledger = l },
			names: func() (names []string) {
				entries, err := os.ReadDir(dir)
				if !errors.Is(err, os.ErrNotExist) {
					must(t, err)
				}
				for _, e := range entries {
					if e.Name() != ".tmp" {
						names = append(names, e.Name())
					}
				}
				return names
			},
			forget: func() { must(t, os.Remove(filepath.Join(dir, ".identity"))) },
		})
	})
	t.Run("s3", func(t *testing.T) {
		o := newObjectStore(t, inMemory(t, nil), false)
		o.bucket += "-not-there-yet"
		test(t, ground{
			open: func(known *identities) provider.Place { o.known = known; return o.open(t, nil) },
			names: func() (names []string) {
				all := minio.ListObjectsOptions{Recursive: true}
				for object := range o.client.ListObjectsIter(t.Context(), o.bucket, all) {
					if object.Err == nil {
						names = append(names, object.Key)
					}
				}
				return names
			},
			forget: func() { o.identify(t, "") },
			ledger: func(l *provider.Ledger) { o.given = l },
		})
	})
}

// migrated runs Identify and returns what it wrote, or why it refused.
func migrated(t *testing.T, p provider.Place, known *identities, adopt bool) string {
	t.Helper()
	written, err := provider.Identify(t.Context(), p, known, adopt)
	wrong := new(provider.IdentityError)
	switch {
	case errors.As(err, &wrong):
		return wrong.Error()
	case err != nil:
		return "failed: " + err.Error()
	case written:
		return "written"
	}
	return "unchanged"
}

func says(t *testing.T, when, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: %q, want %q", when, got, want)
	}
}

// Migrate creates the place, distinguishes it from others afterwards, and accepts another one only on purpose.
func TestIdentify(t *testing.T) {
	both(t, func(t *testing.T, at ground) {
		ours := new(identities)
		says(t, "new", migrated(t, at.open(ours), ours, false), "written")
		first := ours.current
		says(t, "again", migrated(t, at.open(ours), ours, false), "unchanged")
		theirs := new(identities)
		says(t, "another deployment's", migrated(t, at.open(theirs), theirs, false), "belongs to another deployment")
		if theirs.current != (provider.Identity{}) || ours.current != first || !first.Written || len(at.names()) != 1 {
			t.Errorf("database %+v, theirs %+v, place %v", ours.current, theirs.current, at.names())
		}
		says(t, "adopted", migrated(t, at.open(theirs), theirs, true), "written")
		if theirs.current != first {
			t.Errorf("adopted as %+v, want %+v", theirs.current, first)
		}
		raced := &identities{current: first}
		raced.after = func() error { raced.current.ID = "another"; raced.after = nil; return nil }
		says(t, "raced", migrated(t, at.open(raced), raced, true), "run storage-svc migrate again")
	})
}

// A missing place is not created again if the database knows one: its volume may not be mounted.
func TestIdentifyRefusesWhatIsMissing(t *testing.T) {
	both(t, func(t *testing.T, at ground) {
		ours := &identities{current: provider.Identity{ID: strings.Repeat("A", 26), Written: true}}
		got := migrated(t, at.open(ours), ours, false)
		if got == "written" || got == "unchanged" || len(at.names()) != 0 {
			t.Errorf("%s, place %v", got, at.names())
		}
		old := &identities{storages: true}
		says(t, "an upgrade without the volume", migrated(t, at.open(old), old, false), "the provider is empty")
		if len(at.names()) != 0 || old.current.ID != "" {
			t.Errorf("place %v, database %+v", at.names(), old.current)
		}
		says(t, "empty on purpose", migrated(t, at.open(ours), ours, true), "written")
		if ours.current.ID == strings.Repeat("A", 26) {
			t.Error("the place that was given up would be taken again")
		}
	})
}

// A process may die after it wrote the database and before it wrote the place. The next run continues.
func TestIdentifyResumes(t *testing.T) {
	both(t, func(t *testing.T, at ground) {
		ours, dies := new(identities), errors.New("killed")
		ours.after = func() error { return dies }
		says(t, "dead after the database", migrated(t, at.open(ours), ours, false), "killed")
		if id := ours.current; id.ID == "" || id.Written || len(at.names()) != 0 {
			t.Errorf("database %+v, place %v", id, at.names())
		}
		n := 0
		ours.after = func() error {
			if n++; n == 2 {
				return dies
			}
			return nil
		}
		says(t, "dead after the place", migrated(t, at.open(ours), ours, false), "killed")
		ours.after, ours.current.Written = nil, false // the last change was rolled back
		says(t, "done", migrated(t, at.open(ours), ours, false), "written")
		must(t, at.open(ours).(provision.Provider).Create(t.Context(), storage(1)))
	})
}

// A directory with storages and without an identity is from an older version.
func TestIdentifyTakesThePlaceOfAnOlderVersion(t *testing.T) {
	both(t, func(t *testing.T, at ground) {
		before := new(identities)
		says(t, "before", migrated(t, at.open(before), before, false), "written")
		must(t, at.open(before).(provision.Provider).Create(t.Context(), storage(1)))
		at.forget()
		old := &identities{storages: true}
		says(t, "upgraded", migrated(t, at.open(old), old, false), "written")
		says(t, "restored from before", migrated(t, at.open(before), before, false), "belongs to another")
	})
}
