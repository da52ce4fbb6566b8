package outbox

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func ids(n ...int64) []row {
	rows := make([]row, 0, len(n))
	for _, id := range n {
		rows = append(rows, row{ID: id})
	}
	return rows
}

func TestAdvance(t *testing.T) {
	for _, tt := range []struct {
		name    string
		from    position
		read    read
		hi      int64
		gaps    []gap
		publish []row
	}{
		{"nothing", position{hi: 5}, read{xmin: 9, foundAll: true}, 5, nil, nil},
		{"in order", position{hi: 5}, read{fresh: ids(6, 7), foundAll: true}, 7, nil, ids(6, 7)},
		{"new gaps are not stamped yet", position{hi: 5}, read{xmin: 1 << 40, fresh: ids(8, 10), foundAll: true}, 10,
			[]gap{{6, 7, 0}, {9, 9, 0}}, ids(8, 10)},
		{"a found row splits its gap", position{hi: 9, gaps: []gap{{2, 6, 50}}}, read{xmin: 40, found: ids(4), foundAll: true}, 9,
			[]gap{{2, 3, 50}, {5, 6, 50}}, ids(4)},
		{"found rows at the ends", position{hi: 9, gaps: []gap{{2, 4, 50}, {6, 6, 51}}}, read{found: ids(2, 4, 6), foundAll: true}, 9,
			[]gap{{3, 3, 50}}, ids(2, 4, 6)},
		{"xmin below the stamp keeps", position{hi: 9, gaps: []gap{{2, 2, 50}}}, read{xmin: 49, foundAll: true}, 9, []gap{{2, 2, 50}}, nil},
		{"xmin at the stamp forgets", position{hi: 9, gaps: []gap{{2, 2, 50}, {4, 4, 51}}}, read{xmin: 50, foundAll: true}, 9, []gap{{4, 4, 51}}, nil},
		{"an unstamped gap is kept", position{hi: 9, gaps: []gap{{2, 2, 0}}}, read{xmin: 50, foundAll: true}, 9, []gap{{2, 2, 0}}, nil},
		{"found and the rest forgotten", position{hi: 9, gaps: []gap{{2, 4, 50}}}, read{xmin: 50, found: ids(3), foundAll: true}, 9, nil, ids(3)},
		{"a cut read forgets nothing and takes nothing fresh", position{hi: 9, gaps: []gap{{2, 4, 50}}},
			read{xmin: 99, found: ids(2), fresh: ids(11)}, 9, []gap{{3, 4, 50}}, ids(2)},
		{"found before fresh", position{hi: 9, gaps: []gap{{2, 2, 50}}}, read{found: ids(2), fresh: ids(10), foundAll: true}, 10, nil, ids(2, 10)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.from.gaps)
			next := tt.from.advance(tt.read)
			if next.hi != tt.hi || !sameGaps(next.gaps, tt.gaps) {
				t.Errorf("hi %d gaps %v, want %d %v", next.hi, next.gaps, tt.hi, tt.gaps)
			}
			if got := tt.read.rows(); len(got)+len(tt.publish) > 0 && !reflect.DeepEqual(got, tt.publish) {
				t.Errorf("publishes %v, want %v", got, tt.publish)
			}
			if !sameGaps(before, tt.from.gaps) {
				t.Error("the old position changed")
			}
		})
	}
}

func TestAbsorb(t *testing.T) {
	p := position{hi: 9, gaps: []gap{{2, 4, 50}}}.absorb(ids(3, 11))
	if want := []gap{{2, 2, 50}, {4, 4, 50}, {10, 10, 0}}; p.hi != 11 || !sameGaps(p.gaps, want) {
		t.Errorf("hi %d gaps %v, want 11 %v", p.hi, p.gaps, want)
	}
}

// world is a database with the rules of Postgres that the proof uses: ids and
// xids are drawn in order, a transaction draws its xid before any id, and a
// snapshot shows what has committed.
type world struct {
	xid, id int64
	open    map[int64][]int64 // xid → ids
	rows    map[int64]bool    // committed ids
}

func (w *world) begin() int64 {
	w.xid++
	w.open[w.xid] = nil
	return w.xid
}

func (w *world) endAll() {
	for x := range w.open {
		w.end(x, true)
	}
}

func (w *world) end(x int64, commit bool) {
	if commit {
		for _, id := range w.open[x] {
			w.rows[id] = true
		}
	}
	delete(w.open, x)
}

func (w *world) xmin() uint64 {
	low := w.xid + 1
	for x := range w.open {
		low = min(low, x)
	}
	return uint64(low)
}

func (w *world) read(p position, limit int) read {
	r := read{xmin: w.xmin(), foundAll: true}
	for _, id := range slices.Sorted(maps.Keys(w.rows)) {
		switch in := slices.ContainsFunc(p.gaps, func(g gap) bool { return g.from <= id && id <= g.to }); {
		case in && len(r.found) == limit:
			r.foundAll = false
		case in:
			r.found = append(r.found, row{ID: id})
		case id > p.hi && len(r.fresh) < limit:
			r.fresh = append(r.fresh, row{ID: id})
		}
	}
	return r
}

// Random histories of overlapping transactions, reads that are delayed until
// their checkpoint, and crashes that take checkpoints back: in the end each
// committed id has been published exactly once, and no gap is left.
func TestEveryHistoryPublishesEachCommittedEventOnce(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w := &world{open: map[int64][]int64{}, rows: map[int64]bool{}}
		stored := []position{{}} // checkpoints
		var stream []int64       // what the broker stored
		var pending *read        // read, but not yet published
		step := func() {
			p := stored[len(stored)-1]
			r := *pending
			pending = nil
			next := p.advance(r)
			for _, e := range r.rows() {
				stream = append(stream, e.ID)
			}
			next.streamSeq = uint64(len(stream))
			if rng.IntN(2) == 0 { // the next batch is read ahead, and other things happen meanwhile
				ahead := w.read(next, 1+rng.IntN(4))
				pending = &ahead
				if rng.IntN(2) == 0 {
					w.begin()
				}
			}
			if rng.IntN(8) == 0 { // the checkpoint is lost; the next leader reads the stream
				pending = nil
				tail := ids(stream[p.streamSeq:]...)
				slices.SortFunc(tail, func(a, b row) int { return int(a.ID - b.ID) })
				next = p.absorb(tail)
				next.streamSeq = uint64(len(stream))
			}
			w.xid++
			next.gaps = stamped(next.gaps, uint64(w.xid))
			stored = append(stored, next)
		}
		for range 60 {
			switch rng.IntN(6) {
			case 0:
				w.begin()
			case 1, 2: // an open transaction draws ids
				for x := range w.open {
					for range 1 + rng.IntN(3) {
						w.id++
						w.open[x] = append(w.open[x], w.id)
					}
					break
				}
			case 3: // one ends
				for x := range w.open {
					w.end(x, rng.IntN(3) > 0)
					break
				}
			case 4:
				r := w.read(stored[len(stored)-1], 1+rng.IntN(4))
				pending = &r
			case 5:
				if pending != nil {
					step()
				}
			}
		}
		w.endAll()
		for range 200 {
			if pending == nil {
				r := w.read(stored[len(stored)-1], 4)
				pending = &r
			}
			step()
			w.endAll()
		}
		slices.Sort(stream)
		if want := slices.Sorted(maps.Keys(w.rows)); !slices.Equal(stream, want) {
			t.Fatalf("seed %d: published %v, committed %v", seed, stream, want)
		}
		if left := stored[len(stored)-1].gaps; len(left) > 0 {
			t.Fatalf("seed %d: gaps left: %v", seed, left)
		}
	}
}
