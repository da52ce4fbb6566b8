package outbox

import (
	"slices"
	"time"
)

// position is what a checkpoint stores: which ids are published, and where the stream ended afterwards.
// Positions are values: advance and absorb return new ones.
type position struct {
	n         int64 // number of the checkpoint
	hi        int64 // every id up to hi was read or is in gaps
	gaps      []gap // ids up to hi that were not seen, in ascending order
	gapsAt    int64 // the checkpoint that holds the gaps
	streamID  time.Time
	streamSeq uint64
	moved     bool // written in another database cluster: its xids have no meaning here
}

// gap is a range of ids, bounds included, that no read has returned.
type gap struct {
	from, to int64
	// stamp is the xid of the transaction that first recorded the gap, 0 until that transaction has run. It was
	// assigned after the read that missed the ids, and so is larger than the xid of the owner of any of them.
	stamp uint64
}

// row is an event as read from its table.
type row struct {
	ID        int64
	EventID   string
	Key       string
	Type      string
	Headers   []byte
	Payload   []byte
	CreatedAt time.Time
}

// read is what one statement, and so one snapshot, returned.
type read struct {
	xmin  uint64 // every transaction below it has ended and is visible if it committed
	found []row  // rows inside gaps, by id
	fresh []row  // rows above hi, by id
	// foundAll is false if there may be more rows inside gaps than found holds.
	foundAll bool
	more     bool // the limits of a batch may have cut the read short
}

// rows returns what to publish, in the order of ids: gaps lie below hi, so events of one key stay in the order
// in which they were appended. Fresh rows are left out while more found
// rows may remain.
func (r read) rows() []row {
	switch {
	case !r.foundAll:
		return r.found
	case len(r.found) == 0:
		return r.fresh
	}
	return append(slices.Clip(r.found), r.fresh...)
}

// advance returns the position after publishing r.rows().
func (p position) advance(r read) position {
	next := p
	next.gaps = without(p.gaps, r.found, func(rest gap) bool {
		// An id that a snapshot with xmin >= stamp does not show was rolled back: its owner's xid is below the
		// stamp, and so below xmin.
		return r.foundAll && rest.stamp != 0 && r.xmin >= rest.stamp
	})
	if r.foundAll {
		next.raise(r.fresh)
	}
	return next
}

// absorb returns the position after the stream turned out to hold rows that this position does not count as
// published.
func (p position) absorb(published []row) position {
	next := p
	above, _ := slices.BinarySearchFunc(published, p.hi+1, func(r row, id int64) int { return int(r.ID - id) })
	next.gaps = without(p.gaps, published[:above], func(gap) bool { return false })
	next.raise(published[above:])
	return next
}

// raise moves hi to the last of rows and records the skipped ids as gaps.
func (p *position) raise(rows []row) {
	for _, r := range rows {
		if r.ID > p.hi+1 {
			p.gaps = append(p.gaps, gap{from: p.hi + 1, to: r.ID - 1})
		}
		p.hi = r.ID
	}
}

// stamped returns the gaps after transaction xid has recorded them.
func stamped(gaps []gap, xid uint64) []gap {
	gaps = slices.Clone(gaps)
	for i := range gaps {
		if gaps[i].stamp == 0 {
			gaps[i].stamp = xid
		}
	}
	return gaps
}

// without cuts the ids of rows out of gaps, both ascending, and drops the
// remaining pieces for which forget returns true.
func without(gaps []gap, rows []row, forget func(gap) bool) []gap {
	var rest []gap
	keep := func(g gap) {
		if g.from <= g.to && !forget(g) {
			rest = append(rest, g)
		}
	}
	for _, g := range gaps {
		for len(rows) > 0 && rows[0].ID <= g.to {
			if id := rows[0].ID; id >= g.from {
				keep(gap{g.from, id - 1, g.stamp})
				g.from = id + 1
			}
			rows = rows[1:]
		}
		keep(g)
	}
	return rest
}
