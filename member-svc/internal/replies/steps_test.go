package replies_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/replies"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

// Mailbox returns the step that gives a member a mailbox.
func Mailbox(promise, giveUpAge time.Duration) saga.Step {
	return saga.Step{
		Name: "mailbox", Command: "mailbox.provision", Compensation: "mailbox.deprovision",
		Promise: promise, RedriveCap: time.Hour, GiveUpAge: giveUpAge,
	}
}

// participant is a service that follows the rules of the Storage service, in memory.
type participant struct {
	name    string
	members map[string]*resource
	refuses func(memberID string) bool // permanently
}

type resource struct {
	exists, removed bool
}

// answer carries out a command and returns the reply, from the current state.
func (p *participant) answer(typ contract.Type, c contract.StorageCommand) service.Message {
	r := p.members[c.MemberID]
	if r == nil {
		r = &resource{}
		p.members[c.MemberID] = r
	}
	reply, why := "provisioned", (*contract.StorageError)(nil)
	answer := contract.StorageReply{MemberID: c.MemberID, SagaID: c.SagaID, Generation: c.Generation}
	switch {
	case string(typ) == p.name+".deprovision":
		r.exists, r.removed, reply = false, true, "deprovisioned"
	case r.removed:
		reply, why = "rejected", &contract.StorageError{Class: "rejected", Message: "removed", Fingerprint: "removed"}
	case p.refuses(c.MemberID):
		reply, why = "rejected",
			&contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
	default:
		r.exists = true
	}
	answer.Error = why
	data, _ := json.Marshal(answer)
	return message(contract.Type(p.name+"."+reply), uuid.Must(uuid.NewV7()).String(), string(data))
}

// network carries commands from the outbox to participants, and their replies to the real handler: in any
// order, some twice and some never.
type network struct {
	pool         *pgxpool.Pool
	participants map[string]*participant
	handle       func(batch ...service.Message)
	read         int64
	log          []string // every command in the order of the outbox
}

func (w *network) deliver(t *testing.T) {
	t.Helper()
	rows, err := w.pool.Query(t.Context(),
		"-- name: testCommands\nSELECT id, type, payload FROM outbox_event_essential WHERE id > $1 ORDER BY id", w.read)
	if err != nil {
		t.Fatal(err)
	}
	var replies []service.Message
	var typ contract.Type
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&w.read, &typ, &payload}, func() error {
		var c contract.StorageCommand
		if err := json.Unmarshal(payload, &c); err != nil {
			return err
		}
		w.log = append(w.log, c.MemberID+" "+string(typ))
		name, _, _ := strings.Cut(string(typ), ".")
		for range rand.IntN(3) { // 0: the message is lost
			replies = append(replies, w.participants[name].answer(typ, c))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rand.Shuffle(len(replies), func(i, j int) { replies[i], replies[j] = replies[j], replies[i] })
	w.handle(replies[:len(replies)*9/10]...)
}

// A second essential step needs a declaration and a participant; everything else here is the real code on a
// real database. Some members are rejected and retried, some leave at any moment, messages are lost, repeated
// and reordered, and the timer repairs the losses.
func TestTwoSteps(t *testing.T) {
	pool := storetest.Open(t)
	steps := append(storetest.Steps[:1:1], Mailbox(time.Minute, 48*time.Hour))
	st := store.New(pool, steps, storetest.Secret, func() {})
	refusing := true
	w := &network{pool: pool, participants: map[string]*participant{}}
	for _, name := range []string{"storage", "mailbox"} {
		w.participants[name] = &participant{name, map[string]*resource{},
			func(memberID string) bool { return refusing && (memberID[35]+name[0])%5 == 0 }}
	}
	w.handle = func(batch ...service.Message) {
		if err := replies.Handler(st, slog.New(slog.DiscardHandler), func(string) {})(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	var records []store.Record
	for i := range 100 {
		records = append(records, storetest.SignUp(t, st, fmt.Sprint("mina", i), "free"))
	}
	apply := func(r store.Record, e saga.Event) store.Result {
		results, err := st.Apply(t.Context(), store.Change{SagaID: r.ID, Event: e})
		if err != nil {
			t.Fatal(err)
		}
		return results[0]
	}
	waits := map[int]int{} // how many members left while at each step
	for round := range 40 {
		w.deliver(t)
		refusing = round < 10
		for i, r := range records {
			if i%2 == 0 && i/2%10 == round {
				waits[apply(r, saga.Event{Kind: saga.Withdraw}).Step]++
			}
			if round >= 10 && round%5 == 0 {
				apply(r, saga.Event{Kind: saga.Retried, Actor: "ann", Reason: "room made"})
			}
		}
		// Everything is published and due again.
		storetest.Exec(t, pool,
			"INSERT INTO outbox_checkpoint_essential (n, hi, gaps, stream_seq) SELECT max(c.n) + 1, (SELECT max(id) "+
				"FROM outbox_event_essential), '[]', 0 FROM outbox_checkpoint_essential c")
		storetest.Exec(t, pool, "UPDATE signup_saga SET due_at = now() WHERE due_at IS NOT NULL")
		storetest.Exec(t, pool, "UPDATE redrive_budget SET tokens = 1000, refilled_at = now() - interval '1 hour'")
		if _, err := st.Redrive(t.Context(), 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if waits[0] == 0 || waits[1] == 0 {
		t.Errorf("nobody left at one of the steps: %v", waits)
	}
	for i, r := range records {
		got, timeline, err := st.Get(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		storage, mailbox := w.participants["storage"].members[r.MemberID], w.participants["mailbox"].members[r.MemberID]
		switch {
		case i%2 == 1 && (got.State != saga.Ready || got.Step != 1 || !storage.exists || !mailbox.exists):
			t.Errorf("stayed: %+v %+v %+v\n%+v", got.Saga, storage, mailbox, timeline)
		case i%2 == 1 && !slices.ContainsFunc(timeline,
			func(m wire.Moment) bool { return m.Kind == "provisioned" && m.Detail == "mailbox" }):
			t.Errorf("the timeline does not say what was provisioned: %+v", timeline)
		case i%2 == 0 && (got.State != saga.Withdrawn || got.Step != 0 || !storage.removed || mailbox != nil &&
			!mailbox.removed):
			t.Errorf("left: %+v %+v %+v\n%+v", got.Saga, storage, mailbox, timeline)
		}
	}
	w.checkOrder(t)
}

// checkOrder checks that storage comes before mailbox, and that they are taken back in reverse.
func (w *network) checkOrder(t *testing.T) {
	t.Helper()
	order := []string{"storage.provision", "mailbox.provision", "mailbox.deprovision", "storage.deprovision"}
	at, seen := map[string]int{}, map[string]int{}
	for _, line := range w.log {
		member, command, _ := strings.Cut(line, " ")
		place := slices.Index(order, command)
		if place < at[member] {
			t.Errorf("%s after %s", command, order[at[member]])
		}
		at[member] = place
		seen[command]++
	}
	if len(seen) != len(order) {
		t.Errorf("only %v", slices.Collect(maps.Keys(seen)))
	}
}
