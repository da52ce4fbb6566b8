package outbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// A relay refuses to lead while the sequence breaks an assumption of the proof. It logs the reason, and leads
// once the sequence is repaired.
func TestRelayRefusesAnUnfitSequence(t *testing.T) {
	const sequence = "outbox_event_essential_id_seq"
	for name, tt := range map[string]struct{ harm, mend, want string }{
		"cache": {"ALTER SEQUENCE " + sequence + " CACHE 20", "ALTER SEQUENCE " + sequence +
			" CACHE 1", "caches 20 values"},
		"behind an event": {"SELECT setval('" + sequence + "', 2)", "SELECT setval('" + sequence + "', 3)",
			"is at 2, behind event 3"},
		"behind a deleted event": {"DELETE FROM outbox_event_essential; SELECT setval('" + sequence + "', 1)",
			"SELECT setval('" + sequence + "', 3)", "is at 1, behind event 3"},
		"never used": {"DELETE FROM outbox_event_essential; SELECT setval('" + sequence + "', 1, false)",
			"SELECT setval('" + sequence + "', 3)",
			"is at 0, behind event 3"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			_, stop := b.start(Hooks{})
			want := b.commit(3)
			b.published()
			stop()
			b.exec(b.pool, tt.harm)
			var led atomic.Int32
			b.start(Hooks{Led: func(bool) { led.Add(1) }})
			b.eventually("a clear error", func() bool { return strings.Contains(b.log.String(), tt.want) })
			if led.Load() > 0 {
				t.Error("the relay leads")
			}
			b.exec(b.pool, tt.mend)
			want = append(want, b.commit(2)...)
			b.published()
			b.wantExactly(want)
		})
	}
}

// The sequence is reset under a relay that leads. Within seconds the relay gives up and logs why, instead of
// skipping what is appended from then on.
func TestSequenceResetUnderARelay(t *testing.T) {
	b := newBench(t)
	var leading atomic.Bool
	b.start(Hooks{Led: func(on bool) { leading.Store(on) }})
	b.commit(3)
	b.published()
	b.exec(b.pool, "TRUNCATE outbox_event_essential RESTART IDENTITY")
	b.commit(2)
	b.eventually("a clear error",
		func() bool { return strings.Contains(b.log.String(), "is at 2, behind event 3") && !leading.Load() })
}

// The tables come from another cluster: their xids are above all xids of this one, and what was published after
// they were copied is unknown.
func TestMovedDatabase(t *testing.T) {
	b := newBench(t)
	gone := b.begin()
	b.append(gone, event("x", 1)) // id 1: its owner stays behind
	_, stop := b.start(Hooks{})
	old := b.commit(3)
	b.published()
	b.age(2*time.Hour, 0)
	want := b.commit(2)
	b.published()
	stop()
	b.end(gone.Rollback)
	b.exec(b.pool,
		`UPDATE outbox_checkpoint_essential SET system_id = 42, gaps = replace(gaps::text, ',0]',
		    ',' || (1::bigint << 40) || ']')::json`)
	standby := checkpoints{b.pool, lane, newID()}
	p := b.position()
	if len(p.gaps) != 1 || p.gaps[0].stamp != 1<<40 || !p.moved {
		t.Fatalf("%+v: want a gap with a strange stamp, moved", p)
	}
	if _, err := standby.takeOver(t.Context(), p); err != nil { // and ends before it has handled the move
		t.Fatal(err)
	}
	if !b.position().moved {
		t.Fatal("a take-over hides the move")
	}
	b.exec(b.pool, "UPDATE outbox_checkpoint_essential SET published_at = published_at - interval '1 minute'")
	losses := atomic.Int32{}
	_, stop = b.start(Hooks{BrokerLost: func() { losses.Add(1) }})
	b.eventually("the replay window again", func() bool { return len(b.stored()) == 7 })
	b.noGaps()
	b.wantTimes(slices.Concat(old, want, want))
	stop()
	if b.position().moved || losses.Load() != 0 {
		t.Errorf("moved still, or %d losses of the broker", losses.Load())
	}
	b.start(Hooks{})
	want = append(want, b.commit(1)...)
	b.published()
	b.nats.Wipe() // the window begins at a checkpoint of the other cluster
	b.eventually("the replay after a wipe", func() bool { return len(b.stored()) == 3 })
	b.wantExactly(want)
	b.noGaps()
}

// The relay works with a service's privileges: read and write the tables, use the sequence.
func TestRelayNeedsNoSuperuser(t *testing.T) {
	b := newBench(t)
	role := "outbox_" + strings.ReplaceAll(newID(), "-", "")
	b.exec(b.pool, "CREATE ROLE "+role+"; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "+role+
		"; GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO "+role)
	admin := b.pool
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	config := admin.Config()
	config.ConnConfig.RuntimeParams["role"] = role
	limited, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(limited.Close)
	b.pool = limited
	r, _ := b.start(Hooks{})
	want := b.commit(3)
	b.published()
	b.wantExactly(want)
	if err := errors.Join(r.retain(t.Context()), ReplaySince(t.Context(), b.pool, lane, time.Now())); err != nil {
		t.Error(err)
	}
}
