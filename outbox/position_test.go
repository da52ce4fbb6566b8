package outbox

import (
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
		{"a found row splits its gap", position{hi: 9, gaps: []gap{{2, 6, 50}}},
			read{xmin: 40, found: ids(4), foundAll: true}, 9,
			[]gap{{2, 3, 50}, {5, 6, 50}}, ids(4)},
		{"found rows at the ends", position{hi: 9, gaps: []gap{{2, 4, 50}, {6, 6, 51}}},
			read{found: ids(2, 4, 6), foundAll: true}, 9,
			[]gap{{3, 3, 50}}, ids(2, 4, 6)},
		{"xmin below the stamp keeps", position{hi: 9, gaps: []gap{{2, 2, 50}}}, read{xmin: 49, foundAll: true}, 9,
			[]gap{{2, 2, 50}}, nil},
		{"xmin at the stamp forgets", position{hi: 9, gaps: []gap{{2, 2, 50}, {4, 4, 51}}},
			read{xmin: 50, foundAll: true}, 9, []gap{{4, 4, 51}}, nil},
		{"an unstamped gap is kept", position{hi: 9, gaps: []gap{{2, 2, 0}}}, read{xmin: 50, foundAll: true}, 9,
			[]gap{{2, 2, 0}}, nil},
		{"found and the rest forgotten", position{hi: 9, gaps: []gap{{2, 4, 50}}},
			read{xmin: 50, found: ids(3), foundAll: true}, 9, nil, ids(3)},
		{"a cut read forgets nothing and takes nothing fresh", position{hi: 9, gaps: []gap{{2, 4, 50}}},
			read{xmin: 99, found: ids(2), fresh: ids(11)}, 9, []gap{{3, 4, 50}}, ids(2)},
		{"found before fresh", position{hi: 9, gaps: []gap{{2, 2, 50}}},
			read{found: ids(2), fresh: ids(10), foundAll: true}, 10, nil, ids(2, 10)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.from.gaps)
			next := tt.from.advance(tt.read)
			if next.hi != tt.hi || !slices.Equal(next.gaps, tt.gaps) {
				t.Errorf("hi %d gaps %v, want %d %v", next.hi, next.gaps, tt.hi, tt.gaps)
			}
			if got := tt.read.rows(); len(got)+len(tt.publish) > 0 && !reflect.DeepEqual(got, tt.publish) {
				t.Errorf("publishes %v, want %v", got, tt.publish)
			}
			if !slices.Equal(before, tt.from.gaps) {
				t.Error("the old position changed")
			}
		})
	}
}

func TestAbsorb(t *testing.T) {
	p := position{hi: 9, gaps: []gap{{2, 4, 50}}}.absorb(ids(3, 11))
	if want := []gap{{2, 2, 50}, {4, 4, 50}, {10, 10, 0}}; p.hi != 11 || !slices.Equal(p.gaps, want) {
		t.Errorf("hi %d gaps %v, want 11 %v", p.hi, p.gaps, want)
	}
}
