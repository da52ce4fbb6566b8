package provider

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// A listing reads names ahead, over several pages and shards. It reads them again after their end, or when it
// begins elsewhere.
func TestFSListReadsAhead(t *testing.T) {
	known := new(oneIdentity)
	p := NewFS(t.TempDir(), known, nil)
	if _, err := Identify(t.Context(), p, known, false); err != nil {
		t.Fatal(err)
	}
	p.window = 4
	id := func(i int) string { return fmt.Sprintf("01999e5c-0000-7000-8000-%010x%02x", i, 255-i) }
	create := func(i int) {
		if err := p.Create(t.Context(), provision.Storage{MemberID: id(i), Generation: 1}); err != nil {
			t.Fatal(err)
		}
	}
	page := func(after int) (members []int) {
		found, err := p.List(t.Context(), id(after), 2)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 101 {
			if slices.ContainsFunc(found, func(r provision.Resource) bool { return r.MemberID == id(i) }) {
				members = append(members, i)
			}
		}
		return members
	}
	for i := range 10 {
		create(10 * (i + 1))
	}
	for _, c := range []struct {
		after   int
		created int // before the listing continues; 0: nobody
		want    []int
	}{
		{0, 0, []int{10, 20}},
		{20, 25, []int{30, 40}}, // 25 was created after the names were read
		{40, 45, []int{45, 50}}, // read again
		{50, 0, []int{60, 70}},
		{20, 0, []int{25, 30}}, // another listing
		{90, 0, []int{100}},
		{100, 0, nil},
	} {
		if c.created > 0 {
			create(c.created)
		}
		if got := page(c.after); !slices.Equal(got, c.want) {
			t.Errorf("after %d: %v, want %v", c.after, got, c.want)
		}
	}
}

// oneIdentity is a database that has only an identity.
type oneIdentity struct{ current Identity }

func (o *oneIdentity) Identity(context.Context) (Identity, error) { return o.current, nil }

func (o *oneIdentity) SetIdentity(_ context.Context, _, next Identity) (bool, error) {
	o.current = next
	return true, nil
}

func (o *oneIdentity) HasStorages(context.Context) (bool, error) { return false, nil }
