package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/outbox"
)

// Change is one event for one saga. An event with an Actor is audited.
type Change struct {
	SagaID    string
	Event     saga.Event
	IfVersion *int64 // apply only to this version, else [ErrStale]
	Subject   string // what else the audit names: the operation that this is a part of
}

// Result is what became of a Change. A saga that does not exist has no Outcome.
type Result struct {
	Change
	Record
	Outcome saga.Outcome
}

// errMissed: somebody else moved a saga between our read and our write.
var errMissed = errors.New("compare-and-swap missed")

// maxMisses bounds how often Apply decides again; each miss means that another
// transition was committed meanwhile, so one saga cannot miss for long.
const maxMisses = 10

// Apply decides and stores changes in one transaction, those of one saga in the
// order given; results are ordered by saga. Each transition is guarded by the version
// that it was decided on: when another one wins the race, everything is loaded and
// decided again.
func (s *Store) Apply(ctx context.Context, changes ...Change) ([]Result, error) {
	// Everybody updates sagas in the same order: no deadlocks.
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.SagaID, b.SagaID) })
	for range maxMisses {
		var results []Result
		err := outbox.InTx(ctx, s.tx, s.wake, func(tx pgx.Tx) error {
			records, err := load(ctx, tx, changes)
			if err != nil {
				return err
			}
			results, err = s.applyTx(ctx, tx, records, changes)
			return err
		})
		if !errors.Is(err, errMissed) {
			return results, err
		}
	}
	return nil, fmt.Errorf("%d tries: %w", maxMisses, errMissed)
}

func load(ctx context.Context, tx pgx.Tx, changes []Change) (map[string]Record, error) {
	ids := make([]string, 0, len(changes))
	for _, c := range changes {
		if id, err := uuid.FromString(c.SagaID); err == nil {
			ids = append(ids, id.String())
		}
	}
	rows, err := tx.Query(ctx, "-- name: loadSagas\n"+selectRecord+" WHERE s.id = ANY ($1::text[]::uuid[])", ids)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Record])
	return byID(found), err
}

func byID(found []Record) map[string]Record {
	records := make(map[string]Record, len(found))
	for _, r := range found {
		records[r.ID] = r
	}
	return records
}

// applyTx decides all changes in memory and writes them in one round trip.
func (s *Store) applyTx(ctx context.Context, tx pgx.Tx, records map[string]Record, changes []Change) ([]Result, error) {
	results, b := make([]Result, len(changes)), new(pgx.Batch)
	for i, c := range changes {
		r, ok := records[c.SagaID]
		if !ok {
			results[i] = Result{Change: c}
			continue
		}
		if c.IfVersion != nil && *c.IfVersion != r.Version {
			return nil, ErrStale
		}
		before := r.Saga
		var effects []saga.Effect
		var outcome saga.Outcome
		r.Saga, effects, outcome = s.steps.Decide(before, c.Event, r.Now)
		if err := s.write(b, before, &r, c, effects, outcome); err != nil {
			return nil, err
		}
		results[i], records[c.SagaID] = Result{c, r, outcome}, r
	}
	return results, tx.SendBatch(ctx, b).Close()
}

// write queues everything that belongs to one outcome.
func (s *Store) write(b *pgx.Batch, before saga.Saga, r *Record, c Change, effects []saga.Effect, outcome saga.Outcome) error {
	switch outcome {
	case saga.Unchanged, saga.Refused:
		return nil
	case saga.Recorded:
	default:
		update(b, r.Saga, before.Version)
	}
	timeline(b, r.Saga, c.Event, outcome)
	if c.Event.Actor != "" {
		auditChange(b, before, r.Saga, c)
	}
	if c.Event.Kind == saga.Withdraw && r.UsernameKey != nil {
		s.erase(b, r)
	}
	return queueEffects(b, *r, effects)
}

// update is a transition: it happens to the version it was decided on, or not at all.
func update(b *pgx.Batch, s saga.Saga, version int64) {
	b.Queue(`-- name: updateSaga
UPDATE signup_saga SET state = $3, generation = $4, observed_generation = $5, version = $6, redrives = $7, retry_open = $8,
       opened_at = $9, commanded_at = $10, due_at = $11, error_class = $12, error_message = $13, error_fingerprint = $14, updated_at = $15, step = $16, retried = $17
WHERE id = $1 AND version = $2`,
		s.ID, version, s.State, s.Generation, s.ObservedGeneration, s.Version, s.Redrives, s.RetryOpen,
		s.OpenedAt, s.CommandedAt, s.DueAt, s.ErrorClass, s.ErrorMessage, s.ErrorFingerprint, s.UpdatedAt, s.Step, s.Retried).
		Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != 1 {
				return errMissed
			}
			return nil
		})
}

// timeline adds a row. Transitions always get one; everything else once per message
// and at most 200 rows per saga, so that a stutter cannot fill the disk.
func timeline(b *pgx.Batch, s saga.Saga, e saga.Event, outcome saga.Outcome) {
	kind, messageID := string(e.Kind), ""
	switch outcome {
	case saga.GaveUp, saga.Redriven:
		kind = string(outcome)
	case saga.Recorded:
		messageID = e.MessageID
		if e.Kind != saga.AttemptFailed {
			kind += "_ignored"
		}
	}
	b.Queue(`-- name: addTimeline
INSERT INTO saga_event (saga_id, kind, state, version, generation, attempt, detail, actor, message_id)
SELECT $1::uuid, $2, $3, $4, $5, $6, $7, $8, nullif($9, '')
WHERE $10 OR (SELECT count(*) FROM saga_event WHERE saga_id = $1::uuid) < 200
ON CONFLICT (saga_id, message_id) DO NOTHING`,
		s.ID, kind, s.State, s.Version, max(e.Generation, s.Generation), max(e.Attempt, s.Redrives),
		cmp.Or(e.Reason, e.Error.Message, s.ErrorMessage, e.Step), e.Actor, messageID, outcome == saga.Advanced || outcome == saga.GaveUp)
}

func auditChange(b *pgx.Batch, before, after saga.Saga, c Change) {
	facts := func(s saga.Saga) map[string]any {
		return map[string]any{"state": s.State, "generation": s.Generation, "version": s.Version, "error": s.ErrorMessage}
	}
	audit(b, Act{Actor: c.Event.Actor, Action: string(c.Event.Kind), SagaID: &after.ID, Subject: c.Subject, Reason: c.Event.Reason}, facts(before), facts(after))
}

// Redrive repeats the commands that are due, were published, and are unanswered: at
// most limit now, and perSecond over time, counted in Postgres for all replicas. What
// is still in the outbox needs no second copy: a broker that is down for a day does
// not grow it. Sagas past their give-up age are labelled whether published or not.
// Sagas at a step that only a newer version knows are left to it.
// It returns how many sagas it moved.
func (s *Store) Redrive(ctx context.Context, perSecond, limit int) (int, error) {
	var due []Record
	err := outbox.InTx(ctx, s.tx, s.wake, func(tx pgx.Tx) error {
		lane, err := outbox.ReadStatus(ctx, tx, string(contract.Essential))
		if err != nil {
			return err
		}
		var published *time.Time // commands older than this are out; nil: all are
		if !lane.OldestPending.IsZero() {
			published = &lane.OldestPending
		}
		var allowed int
		if err := tx.QueryRow(ctx, `-- name: readBudget
SELECT floor(least($1::float8, tokens + $1::float8 * extract(epoch FROM clock_timestamp() - refilled_at)))::int
FROM redrive_budget FOR UPDATE`, perSecond).Scan(&allowed); err != nil || allowed < 1 {
			return err
		}
		rows, err := tx.Query(ctx, "-- name: claimDue\n"+selectRecord+`
WHERE s.due_at <= now() AND s.step < cardinality($2::float8[]) AND (s.commanded_at < coalesce($1::timestamptz, 'infinity')
      OR s.state IN ('provisioning', 'withdrawing') AND s.opened_at <= now() - make_interval(secs => ($2::float8[])[s.step + 1]))
ORDER BY s.due_at LIMIT $3 FOR NO KEY UPDATE OF s SKIP LOCKED`, published,
			s.seconds(func(st saga.Step) time.Duration { return st.GiveUpAge }), min(limit, allowed))
		if err != nil {
			return err
		}
		if due, err = pgx.CollectRows(rows, pgx.RowToStructByName[Record]); err != nil || len(due) == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `-- name: spendBudget
UPDATE redrive_budget SET refilled_at = clock_timestamp(),
       tokens = greatest(0, least($1::float8, tokens + $1::float8 * extract(epoch FROM clock_timestamp() - refilled_at)) - $2)`,
			perSecond, len(due)); err != nil {
			return err
		}
		changes := make([]Change, len(due))
		for i, r := range due {
			changes[i] = Change{SagaID: r.ID, Event: saga.Event{Kind: saga.TimerDue, Jitter: rand.Float64()}}
		}
		_, err = s.applyTx(ctx, tx, byID(due), changes)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(due), nil
}

// seconds returns a setting of each step, for a query to pick by a saga's step.
func (s *Store) seconds(of func(saga.Step) time.Duration) []float64 {
	all := make([]float64, len(s.steps))
	for i, st := range s.steps {
		all[i] = of(st).Seconds()
	}
	return all
}
