package provider_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// place is an empty place for storages, with a ledger. The functions read and change its content without the
// provider under test.
type place struct {
	open   func(t *testing.T) provision.Provider // as another process would
	ledger string                                // path
	// write writes a file to a member's storage; names lists the storage's files.
	write func(t *testing.T, s provision.Storage, name, content string)
	names func(t *testing.T, s provision.Storage) []string
	// unmark removes a marker, which no provider ever does.
	unmark func(t *testing.T, s provision.Storage)
	// identify gives the place another identity, "" for none. What the database knows stays the same.
	identify func(t *testing.T, content string)
	known    *identities
}

// conforms tests what every provider must do, each part in a place of its own.
func conforms(t *testing.T, at func(t *testing.T) place) {
	for name, part := range map[string]func(*testing.T, place){
		"create":          createsOnce,
		"remove":          removesForGood,
		"concurrent":      oneOfManyCreates,
		"race":            removalWinsRaces,
		"crash":           crashesAreMadeUpFor,
		"double":          doublesShow,
		"list":            listTellsWhatIsThere,
		"strange member":  strangeMembersAreRefused,
		"ended context":   endedContextsAreObeyed,
		"damaged markers": damagedMarkersAreLeftAlone,
		"identity":        strangePlacesAreLeftAlone,
	} {
		t.Run(name, func(t *testing.T) { part(t, at(t)) })
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func generation(s provision.Storage, n int64) provision.Storage {
	s.Generation = n
	return s
}

func rejected(t *testing.T, err, cause error) {
	t.Helper()
	var f *provision.Failure
	if !errors.As(err, &f) || f.Class != provision.ClassRejected || (cause != nil && !errors.Is(err, cause)) {
		t.Errorf("err = %v, expected a rejection", err)
	}
}

func createsOnce(t *testing.T, at place) {
	p, s := at.open(t), generation(storage(1), 2)
	must(t, p.Create(t.Context(), s))
	at.write(t, s, "canary", "alive")
	for _, g := range []int64{2, 1, 3} { // repeated, overtaken, commanded again
		must(t, p.Create(t.Context(), generation(s, g)), at.open(t).Create(t.Context(), generation(s, g)))
	}
	if got := at.names(t, s); !slices.Equal(got, []string{"canary", "owner"}) {
		t.Errorf("the storage has %v", got)
	}
	found, err := p.List(t.Context(), "", 2)
	want := []provision.Resource{{MemberID: s.MemberID, State: provision.ResourceLive, Generation: 2, QuotaBytes: 7}}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%v, %v", found, err)
	}
	expect(t, at.ledger, s, "create ")
}

func removesForGood(t *testing.T, at place) {
	p, s, never := at.open(t), storage(1), storage(2)
	must(t, p.Create(t.Context(), s))
	for _, name := range []string{"a", "photos/cats/1", "photos/cats/2", "z"} {
		at.write(t, s, name, "old")
		at.write(t, s, name, "new")
	}
	must(t, p.Remove(t.Context(), generation(s, 2)), p.Remove(t.Context(), generation(s, 3)),
		p.Remove(t.Context(), never))
	for _, gone := range []provision.Storage{s, never} {
		if got := at.names(t, gone); !slices.Equal(got, []string{"owner"}) {
			t.Errorf("left over: %v", got)
		}
		for _, g := range []int64{1, 2, 3, 4} { // by a worker that was suspended, or by one that does not know
			rejected(t, p.Create(t.Context(), generation(gone, g)), provision.ErrTombstoned)
			rejected(t, at.open(t).Create(t.Context(), generation(gone, g)), provision.ErrTombstoned)
		}
	}
	expect(t, at.ledger, s, "create delete ")
	expect(t, at.ledger, never, "")
}

func oneOfManyCreates(t *testing.T, at place) {
	var wg sync.WaitGroup
	for i := range 16 {
		p := at.open(t)
		wg.Go(func() {
			if err := p.Create(t.Context(), generation(storage(i%2), int64(i+1))); err != nil {
				t.Errorf("concurrent create: %v", err)
			}
		})
	}
	wg.Wait()
	expect(t, at.ledger, storage(0), "create ")
	expect(t, at.ledger, storage(1), "create ")
}

// Whichever call comes first, the storage is removed in the end.
func removalWinsRaces(t *testing.T, at place) {
	for i := range 10 {
		s := storage(i)
		var wg sync.WaitGroup
		for range 3 {
			create, remove := at.open(t), at.open(t)
			wg.Go(func() {
				if err := create.Create(t.Context(), s); err != nil && !errors.Is(err, provision.ErrTombstoned) {
					t.Errorf("racing create: %v", err)
				}
			})
			wg.Go(func() {
				if err := remove.Remove(t.Context(), s); err != nil {
					t.Errorf("racing remove: %v", err)
				}
			})
		}
		wg.Wait()
		rejected(t, at.open(t).Create(t.Context(), s), provision.ErrTombstoned)
		if got := operations(t, at.ledger, s); got != "" && got != "create delete " {
			t.Errorf("ledger of the race: %q", got)
		}
	}
}

// A process may die after the marker changed, before the ledger has its line and before the data is deleted.
// The process that repeats the operation does both, once.
func crashesAreMadeUpFor(t *testing.T, at place) {
	s := storage(1)
	must(t, at.open(t).Create(t.Context(), s), os.Truncate(at.ledger, 0))
	must(t, at.open(t).Create(t.Context(), s), at.open(t).Create(t.Context(), s))
	expect(t, at.ledger, s, "create ")
	created, err := os.ReadFile(at.ledger)
	must(t, err, at.open(t).Remove(t.Context(), s), os.WriteFile(at.ledger, created, 0o600))
	at.write(t, s, "left", "over")
	must(t, at.open(t).Remove(t.Context(), s), at.open(t).Remove(t.Context(), s))
	expect(t, at.ledger, s, "create delete ")
	if got := at.names(t, s); !slices.Equal(got, []string{"owner"}) {
		t.Errorf("left over: %v", got)
	}
}

// A storage that is really created twice must show: the ledger does not hide a lost marker.
func doublesShow(t *testing.T, at place) {
	s := storage(1)
	must(t, at.open(t).Create(t.Context(), s))
	at.unmark(t, s)
	must(t, at.open(t).Create(t.Context(), s))
	expect(t, at.ledger, s, "create create ")
}

func strangeMembersAreRefused(t *testing.T, at place) {
	for _, id := range []string{"", "../../etc", strings.ToUpper(storage(10).MemberID), storage(1).MemberID + "/x"} {
		rejected(t, at.open(t).Create(t.Context(), provision.Storage{MemberID: id}), nil)
		rejected(t, at.open(t).Remove(t.Context(), provision.Storage{MemberID: id}), nil)
	}
}

func endedContextsAreObeyed(t *testing.T, at place) {
	p := at.open(t)
	must(t, p.Create(t.Context(), storage(1)))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err := p.List(ended, "", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", found, err)
	}
}

// Nobody can tell whose storages these are, so they need a person.
func damagedMarkersAreLeftAlone(t *testing.T, at place) {
	p := at.open(t)
	for i, content := range []string{"x", "{", `{"member_id":"somebody"}`} {
		at.write(t, storage(i), "owner", content)
		rejected(t, p.Create(t.Context(), storage(i)), nil)
	}
	at.write(t, storage(9), "owner", `{"member_id":"somebody","tombstone":true}`)
	rejected(t, p.Create(t.Context(), storage(9)), nil)
	if got := lines(t, at.ledger); len(got) != 0 {
		t.Errorf("the ledger has %v", got)
	}
}

type checked interface {
	Check(ctx context.Context) error
}

// A place without the right identity is an outage: nothing is created, deleted or reported missing there, and
// everything continues when the right place is back.
func strangePlacesAreLeftAlone(t *testing.T, at place) {
	living, new, right := storage(1), storage(2), at.known.current.ID
	must(t, at.open(t).Create(t.Context(), living))
	unusable := func(name, want string) {
		p := at.open(t)
		_, listErr := p.List(t.Context(), "", 10)
		for call, err := range map[string]error{
			"create": p.Create(t.Context(), new), "remove": p.Remove(t.Context(), living), "list": listErr,
			"check": p.(checked).Check(t.Context()),
		} {
			var f *provision.Failure
			if !errors.As(err, &f) || f.Class != provision.ClassOutage || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v, want an outage: %s", name, call, err, want)
			}
		}
		if got := at.names(t, new); len(got) != 0 {
			t.Errorf("%s: created %v", name, got)
		}
	}
	for name, c := range map[string]struct{ content, want string }{
		"none":             {"", "has no identity"},
		"another's":        {strings.Repeat("A", 26) + "\n", "belongs to another deployment"},
		"blank":            {"\n", "is damaged"},
		"cut off":          {right[:20], "is damaged"},
		"binary":           {"\x00\xff" + right, "is damaged"},
		"longer than ours": {strings.Repeat(right, 1000), "is damaged"},
	} {
		at.identify(t, c.content)
		unusable(name, c.want)
		at.identify(t, right+"\n")
	}
	known := at.known.current
	at.known.current = provider.Identity{}
	unusable("migrate has not run", "run storage-svc migrate")
	at.known.current = known
	at.known.fails = errors.New("no connection")
	unusable("no database", "no connection")
	at.known.fails = nil
	must(t, at.open(t).Create(t.Context(), new))
	expect(t, at.ledger, living, "create ")
	expect(t, at.ledger, new, "create ")
}

func listTellsWhatIsThere(t *testing.T, at place) {
	p, ctx := at.open(t), t.Context()
	var want []provision.Resource
	for i := range 20 {
		s := storage(i)
		r := provision.Resource{MemberID: s.MemberID, State: provision.ResourceLive, Generation: 1, QuotaBytes: 7}
		must(t, p.Create(ctx, s))
		at.write(t, s, "zebra", "data")
		switch i % 5 {
		case 1:
			must(t, p.Remove(ctx, generation(s, 2)))
			r.State, r.Generation, r.QuotaBytes = provision.ResourceTombstone, 2, 0
		case 2:
			at.unmark(t, s)
			r.State, r.Generation, r.QuotaBytes = provision.ResourceOrphaned, 0, 0
		case 3:
			at.write(t, s, "owner", `{"member_id":"somebody"}`)
			r.State, r.Generation, r.QuotaBytes = provision.ResourceDamaged, 0, 0
		case 4: // an empty directory
			must(t, p.Remove(ctx, s))
			at.unmark(t, s)
			continue
		}
		want = append(want, r)
	}
	for _, limit := range []int{1, 3, 16, 0, 1_000_000} { // limits out of range are corrected
		if got := listAll(t, p, limit); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v\nwant %v", limit, got, want)
		}
	}
}

// listAll reads all pages.
func listAll(t *testing.T, p provision.Provider, limit int) (all []provision.Resource) {
	t.Helper()
	for after := ""; ; after = all[len(all)-1].MemberID {
		page, err := p.List(t.Context(), after, limit)
		must(t, err)
		if len(page) == 0 {
			return all
		}
		if len(page) > min(max(limit, 1), provision.MaxResources) || page[0].MemberID <= after {
			t.Fatalf("%d in a page of %d after %q, from %q", len(page), limit, after, page[0].MemberID)
		}
		all = append(all, page...)
	}
}

// newLedger creates the ledger that all processes of a place share.
func newLedger(t *testing.T, path string) *provider.Ledger {
	t.Helper()
	ledger := provider.NewLedger(path, nil)
	must(t, ledger.Begin())
	return ledger
}
