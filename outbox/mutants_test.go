package outbox

import (
	"slices"
	"strings"
	"testing"
)

// Each promise that the proof in doc.go names is needed: without it the model fails, in the expected way. Run
// with -v to see the histories.
func TestModelTurnsRedWithoutEachRule(t *testing.T) {
	const lost, twice, stuck = "is not in the stream", "twice", "cannot be loaded"
	for _, mutant := range []struct {
		name   string
		mutate func(*rules)
		world  string
		want   string
	}{
		{"stamp by pg_snapshot_xmax", func(r *rules) { r.stamp = func(s sighting) uint64 { return s.xmax } },
			"two writers", lost},
		{"stamp taken before the read", func(r *rules) { r.stamp = func(s sighting) uint64 { return s.before } },
			"two writers", lost},
		{"xid column second", func(r *rules) { r.xidFirst = false }, "two writers", lost},
		{"gap forgotten without re-reading", func(r *rules) { r.oneSnapshot = false }, "two writers", lost},
		{"batch without expected sequence", func(r *rules) { r.expected = false }, "two relays", twice},
		{"checkpoint without the leader condition", func(r *rules) { r.mine = false }, "small crash", stuck},
		{"take-over that points to gaps", func(r *rules) { r.repeats = false }, "crash", stuck},
	} {
		t.Run(mutant.name, func(t *testing.T) {
			r := proven
			mutant.mutate(&r)
			w := worlds[slices.IndexFunc(worlds, func(w world) bool { return w.name == mutant.world })]
			_, broken := explore(r, w.budget)
			if broken == nil {
				t.Fatal("the model stays green")
			}
			t.Log(broken)
			if !strings.Contains(broken.what, mutant.want) {
				t.Errorf("want %q", mutant.want)
			}
		})
	}
}
