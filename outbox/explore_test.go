package outbox

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// worlds are the budgets that the model explores. Together they contain every kind of failure; each is as large
// as can be explored in a second or two.
var worlds = []world{
	{"two writers", budget{relays: 1, txs: 2, ids: 3, takeOvers: 1, aheads: 3, batch: 9}},
	{"two relays", budget{relays: 2, txs: 2, ids: 2, takeOvers: 2, aheads: 1, batch: 9}},
	{"three writers", budget{relays: 1, txs: 3, ids: 4, takeOvers: 1, aheads: 2, batch: 9}},
	{"batches of one", budget{relays: 1, txs: 2, ids: 4, takeOvers: 1, aheads: 4, batch: 1}},
	{"batches of two", budget{relays: 1, txs: 2, ids: 4, takeOvers: 1, aheads: 4, batch: 2}},
	{"one by one", budget{relays: 2, txs: 2, ids: 2, takeOvers: 2, lostAcks: 1, delays: 1, batch: 9, singles: true}},
	{"one by one, wiped",
		budget{relays: 2, txs: 1, ids: 2, takeOvers: 2, wipes: 1, lostAcks: 1, batch: 9, singles: true}},
	{"one by one, crash",
		budget{relays: 2, txs: 1, ids: 2, takeOvers: 2, crashes: 1, aheads: 1, batch: 9, singles: true}},
	{"hand-over and heartbeat", budget{relays: 2, txs: 1, ids: 2, takeOvers: 3, beats: 2, batch: 9}},
	{"lost and late", budget{relays: 2, txs: 2, ids: 2, takeOvers: 2, lostAcks: 1, delays: 1, batch: 9}},
	{"wiped twice", budget{relays: 1, txs: 2, ids: 2, takeOvers: 1, wipes: 2, delays: 1, lostAcks: 1, batch: 9}},
	{"wiped, with a short window", budget{relays: 2, txs: 2, ids: 2, takeOvers: 2, wipes: 1, window: 2, batch: 9}},
	{"small crash", budget{relays: 2, txs: 1, ids: 1, takeOvers: 2, crashes: 1, aheads: 1, batch: 9}},
	{"crash", budget{relays: 2, txs: 2, ids: 2, takeOvers: 2, crashes: 1, batch: 9}},
	{"crash with a batch ahead",
		budget{relays: 1, txs: 2, ids: 3, takeOvers: 1, crashes: 1, lostAcks: 1, aheads: 2, batch: 1}},
	{"wiped and crash", budget{relays: 1, txs: 2, ids: 2, takeOvers: 2, wipes: 1, crashes: 1, lostAcks: 1, batch: 9}},
}

type world struct {
	name string
	budget
}

// In every reachable history, each committed event ends up in the stream exactly once, and nothing else does.
// After a wipe, this holds for each event of the replay window.
func TestEveryHistoryPublishesEachCommittedEventOnce(t *testing.T) {
	happens := map[string]int{}
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			m, broken := explore(proven, w.budget)
			if broken != nil {
				t.Error(broken)
			}
			t.Logf("%d states", len(m.nodes))
			for what, n := range m.happens {
				happens[what] += n
			}
		})
	}
	const kinds = 23
	if len(happens) != kinds {
		t.Errorf("%d of %d kinds of steps happened: %v", len(happens), kinds, happens)
	}
}

// model explores the states that can be reached within a budget.
type model struct {
	rules
	keys    keys
	seen    map[string]bool
	calmed  map[string]bool
	nodes   []node
	queue   []state
	happens map[string]int // how often, by kind of step
}

// node is how a state was first reached.
type node struct {
	parent int32
	who    int // 0: neither; 1 and 2: a relay; above: a transaction
	what   string
}

// violation is a broken promise and a shortest history that leads to it.
type violation struct {
	what  string
	trace []string
}

func (v *violation) String() string {
	return fmt.Sprintf("%s, after %s", v.what, strings.Join(v.trace, ", "))
}

// explore visits every reachable state, breadth first, or stops at a violation that takes the fewest steps.
func explore(r rules, b budget) (*model, *violation) {
	m := &model{rules: r, seen: map[string]bool{}, calmed: map[string]bool{}, happens: map[string]int{}}
	start := newState(b)
	m.add(&start, -1, "start", 0)
	for at := int32(0); len(m.queue) > 0; at++ {
		s := m.queue[0]
		m.queue = m.queue[1:]
		if what := m.check(&s); what != "" {
			return m, &violation{what, m.trace(at)}
		}
		m.successors(&s, func(next *state, what string, who int) { m.add(next, at, what, who) })
	}
	return m, nil
}

func (m *model) add(s *state, parent int32, what string, who int) {
	m.happens[what]++
	key := m.keys.of(s, m.stamp != nil)
	if m.seen[string(key)] {
		return
	}
	m.seen[string(key)] = true
	m.nodes = append(m.nodes, node{parent, who, what})
	m.queue = append(m.queue, *s)
}

func (m *model) trace(at int32) []string {
	var out []string
	for n := m.nodes[at]; n.parent >= 0; n = m.nodes[n.parent] {
		who := []string{"", "relay A ", "relay B ", "tx 1 ", "tx 2 ", "tx 3 "}[n.who]
		out = append(out, who+n.what)
	}
	slices.Reverse(out)
	return out
}

// check looks for a broken promise in s and, when nothing is open or in flight, in the state that one relay
// leads to from there.
func (m *model) check(s *state) string {
	var in ids8
	for _, id := range s.stream {
		switch {
		case !s.committed.has(id):
			return fmt.Sprintf("event %d is in the stream and was not committed", id)
		case in.has(id):
			return fmt.Sprintf("event %d is in the stream twice", id)
		}
		in |= 1 << (id - 1)
	}
	if len(s.open) > 0 || s.late != nil || s.relays[0].does != loading || s.relays[1].does != loading {
		return ""
	}
	calm := *s
	calm.left = budget{relays: s.left.relays, batch: s.left.batch, singles: s.left.singles, window: s.left.window}
	key := m.keys.of(&calm, m.stamp != nil)
	if m.calmed[string(key)] {
		return ""
	}
	m.calmed[string(key)] = true
	for i := range s.left.relays {
		s := calm
		if what := m.settle(&s, i); what != "" {
			return what
		}
	}
	return ""
}

// settle runs relay i until nothing is left to do, and returns what is wrong then.
func (m *model) settle(s *state, i int) string {
	const enough = 100
	steps := 0
	for m.step(s, i) {
		if steps++; steps > enough {
			return "the relay never becomes idle"
		}
	}
	r := s.relays[i]
	if r.does != reading {
		return "the newest checkpoint cannot be loaded"
	}
	if len(r.p.gaps) > 0 {
		return fmt.Sprintf("gaps %v stay open", r.p.gaps)
	}
	var in ids8
	for _, id := range s.stream {
		if in.has(id) {
			return fmt.Sprintf("event %d is in the stream twice", id)
		}
		in |= 1 << (id - 1)
	}
	for id := int64(1); id <= s.lastID; id++ {
		if s.committed.has(id) && !in.has(id) && !s.excused(id) {
			return fmt.Sprintf("event %d was committed and is not in the stream", id)
		}
	}
	return ""
}

// excused reports whether the event was published before the replay window of a broker that was wiped.
func (s *state) excused(id int64) bool {
	if s.streamID == 1 {
		return false
	}
	p, _ := s.load(s.replayFrom())
	return id <= p.hi && !slices.ContainsFunc(p.gaps, func(g gap) bool { return g.from <= id && id <= g.to })
}

// successors calls to with every state that is one step away.
func (m *model) successors(s *state, to func(s *state, what string, who int)) {
	m.writers(s, to)
	for i := range s.left.relays {
		m.relaying(s, i, to)
	}
	if s.late != nil {
		n := *s
		m.store(&n, *n.late)
		n.late = nil
		to(&n, "late batch arrives", 0)
	}
	if s.left.wipes > 0 {
		n := *s
		n.left.wipes--
		n.streamID, n.stream = n.streamID+1, nil
		to(&n, "broker wiped", 0)
	}
	for keep := s.durable; s.left.crashes > 0 && keep <= len(s.checkpoints); keep++ {
		n := *s
		n.crash(keep)
		to(&n, "database crashes", 0)
	}
}

// crash ends every transaction and undoes what did not wait for the disk: all checkpoints but the first keep,
// and the ids and xids that were not committed.
func (s *state) crash(keep int) {
	s.left.crashes--
	s.checkpoints, s.open, s.next, s.lastID = s.checkpoints[:keep:keep], nil, s.flushed, 0
	for _, c := range s.checkpoints[s.durable:] {
		s.next = max(s.next, c.xid+1)
	}
	s.ended = s.next - 1
	for id := range int64(8) {
		if s.committed.has(id + 1) {
			s.lastID = id + 1
		}
	}
}

// writers yields the steps of the services' transactions.
func (m *model) writers(s *state, to func(s *state, what string, who int)) {
	draw := func(n *state, t *tx) {
		n.lastID++
		n.left.ids--
		t.ids |= 1 << (n.lastID - 1)
	}
	if s.left.txs > 0 && (m.xidFirst || s.left.ids > 0) {
		n := *s
		n.left.txs--
		n.begun++
		t := tx{number: n.begun}
		if m.xidFirst {
			t.xid = n.next
			n.next++
		} else {
			draw(&n, &t)
		}
		n.open = append(slices.Clip(n.open), t)
		to(&n, "begins", 2+t.number)
	}
	for i, t := range s.open {
		change := func(what string, f func(n *state, t *tx)) {
			n := *s
			n.open = slices.Clone(s.open)
			f(&n, &n.open[i])
			to(&n, what, 2+t.number)
		}
		if t.xid == 0 {
			change("takes xid", func(n *state, t *tx) { t.xid = n.next; n.next++ })
		} else if s.left.ids > 0 {
			change("takes id", draw)
		}
		end := func(n *state, t *tx) {
			n.ended = max(n.ended, t.xid)
			n.open = slices.Delete(n.open, i, i+1)
		}
		change("rolls back", end)
		if t.xid != 0 && t.ids != 0 {
			change("commits", func(n *state, t *tx) {
				n.committed |= t.ids
				n.flushed, n.durable = n.next, len(n.checkpoints)
				end(n, t)
			})
		}
	}
}

// relaying yields the steps of relay i, and what may happen to it.
func (m *model) relaying(s *state, i int, to func(s *state, what string, who int)) {
	change := func(what string, f func(n *state, r *relay) bool) { // f reports whether it happened
		n := *s
		if f(&n, &n.relays[i]) {
			to(&n, what, i+1)
		}
	}
	r := s.relays[i]
	taking := r.does == takingOver || r.does == loading && s.checkpoints[len(s.checkpoints)-1].leader != i+1
	if !taking || s.left.takeOvers > 0 {
		change(doing[r.does], func(n *state, r *relay) bool {
			if r.does == takingOver {
				n.left.takeOvers--
			}
			return m.step(n, i)
		})
	}
	if r.does != loading {
		change("loses all it knows", func(_ *state, r *relay) bool { *r = relay{}; return true })
	}
	m.sending(s, r, change)
	if (r.does == publishing || r.does == writing) && !r.ahead.some && s.left.aheads > 0 {
		change("reads ahead", func(n *state, r *relay) bool {
			n.left.aheads--
			r.ahead = m.snapshot(n, r.at().advance(r.sees.read()))
			return true
		})
	}
	if r.behind.some && r.does != writing {
		change("writes a checkpoint", func(n *state, _ *relay) bool { m.save(n, i); return true })
	}
	if r.does != reading || r.ahead.some || r.behind.some {
		return
	}
	change("reads the stream again", func(n *state, r *relay) bool {
		next := n.compared(r.p)
		r.does = looking
		return !next.streamID.Equal(r.p.streamID) || next.streamSeq != r.p.streamSeq
	})
	if s.left.beats > 0 {
		for what, leader := range map[string]int{"writes a heartbeat": i + 1, "hands over": 0} {
			change(what, func(n *state, r *relay) (ok bool) {
				n.left.beats--
				if r.p, ok = m.insert(n, r.p, r.p, leader, i+1, sighting{}); !ok || leader == 0 {
					*r = relay{}
				}
				return true
			})
		}
	}
}

// sending yields what may happen to the batch of relay r.
func (m *model) sending(s *state, r relay, change func(what string, f func(n *state, r *relay) bool)) {
	if r.does == publishing && s.left.lostAcks > 0 {
		change("publishes, acknowledgement lost", func(n *state, r *relay) bool {
			n.left.lostAcks--
			b, _ := r.batch(n.left.singles)
			stored := m.store(n, b)
			*r = relay{}
			return stored
		})
	}
	if r.does == publishing && s.left.delays > 0 && s.late == nil {
		change("gives up a batch that is on its way", func(n *state, r *relay) bool {
			n.left.delays--
			b, _ := r.batch(n.left.singles)
			n.late, *r = &b, relay{}
			return true
		})
	}
}

var doing = [...]string{loading: "loads", takingOver: "takes over", looking: "reads the end of the stream",
	correcting: "corrects",
	reading:    "reads", asking: "asks for xmin", publishing: "publishes", writing: "goes on"}
