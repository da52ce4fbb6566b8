package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Writers of four keys, each of which appends after it has updated its key's row, sometimes roll back. The
// stream holds each key's events in order.
func TestEventsOfOneKeyStayInOrder(t *testing.T) {
	b := newBench(t)
	b.exec(b.pool, "CREATE TABLE account (k int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
	b.exec(b.pool, "INSERT INTO account (k) SELECT generate_series(0, 3)")
	r, _ := b.start(Hooks{})
	errNo := errors.New("no")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(w)))
			for range 60 {
				err := InTx(t.Context(), b.pool, r.Wake, func(tx pgx.Tx) error {
					k, n := rng.IntN(4), 0
					const raise = "UPDATE account SET n = n + 1 WHERE k = $1 RETURNING n"
					if err := tx.QueryRow(t.Context(), raise, k).Scan(&n); err != nil {
						return err
					}
					if err := Append(t.Context(), tx, event(fmt.Sprint(k), n)); err != nil {
						return err
					}
					if rng.IntN(5) == 0 {
						return errNo
					}
					return nil
				})
				if err != nil && !errors.Is(err, errNo) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.published()
	b.noGaps()
	var total, sum int
	last := map[string]int{}
	for _, m := range b.messages() {
		var body struct{ I int }
		if err := json.Unmarshal(m.Data, &body); err != nil {
			t.Fatal(err)
		}
		key := m.Header.Get("ce-subject")
		if body.I != last[key]+1 {
			t.Fatalf("key %s: %d follows %d", key, body.I, last[key])
		}
		last[key] = body.I
		total++
	}
	if err := b.pool.QueryRow(t.Context(), "SELECT sum(n) FROM account").Scan(&sum); err != nil || sum != total ||
		len(last) != 4 {
		t.Errorf("%d messages of %d keys, %d events, %v", total, len(last), sum, err)
	}
}

// Foreign messages carry ids of ours before we use them, or the event id of ours with another row id, or ids
// that Postgres does not accept as text.
func TestForgedMessagesHideNoEvent(t *testing.T) {
	b := newBench(t)
	var foreign atomic.Uint64
	b.start(Hooks{Foreign: func(seq uint64) { foreign.CompareAndSwap(0, seq) }})
	want := b.commit(1)
	b.published()
	next := event("k", 2)
	js, _ := jetstream.New(b.connect())
	for row, id := range map[string]string{
		"2": newID(), "3": next.ID, "4": "not a uuid", "x": next.ID,
		"5": next.ID + "\x00", "6": "\xff", "9223372036854775808": next.ID,
	} {
		m := nats.NewMsg("signup.essential.stranger")
		m.Header["ce-outboxid"], m.Header["ce-id"] = []string{row}, []string{id}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	tx := b.begin()
	want = append(want, b.append(tx, next)...)
	b.end(tx.Commit)
	want = append(want, b.commit(3)...)
	b.published()
	var ours []string
	for _, m := range b.messages() {
		if m.Subject != "signup.essential.stranger" {
			ours = append(ours, m.Header.Get("ce-id"))
		}
	}
	if !slices.Equal(ours, want) {
		t.Errorf("the stream holds %v of ours, want %v", ours, want)
	}
	if foreign.Load() != 2 {
		t.Errorf("foreign at %d, want 2", foreign.Load())
	}
}

// An invalid event cannot be appended, alone or in a batch, and makes its transaction fail.
func TestAppendRefusesInvalidEvents(t *testing.T) {
	b := newBench(t)
	noID, noLane := event("k", 1), event("k", 2)
	noID.ID, noLane.Lane = "not a uuid", `x"; DROP TABLE outbox_event_essential; --`
	for _, e := range []Event{noID, noLane} {
		err := InTx(t.Context(), b.pool, nil,
			func(tx pgx.Tx) error { return Append(t.Context(), tx, event("k", 0), e) })
		batch := new(pgx.Batch)
		AppendBatch(batch, event("k", 0), e)
		batchErr := b.pool.SendBatch(t.Context(), batch).Close()
		var pgErr, pgBatchErr *pgconn.PgError
		if !errors.As(err, &pgErr) || !errors.As(batchErr, &pgBatchErr) {
			t.Errorf("%s in lane %s: %v, %v", e.ID, e.Lane, err, batchErr)
		} else if want := map[string]string{noID.ID: "22P02", noLane.ID: "42P01"}[e.ID]; pgErr.Code != want ||
			pgBatchErr.Code != want {
			t.Errorf("%s in lane %s: %s, %s; want %s (invalid text, undefined table)", e.ID, e.Lane, pgErr.Code,
				pgBatchErr.Code, want)
		}
	}
	if s, err := ReadStatus(t.Context(), b.pool, lane); err != nil || s.Lag != 0 {
		t.Errorf("%+v, %v; want nothing appended", s, err)
	}
}
