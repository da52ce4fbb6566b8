package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/trace"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

// Change is one event to apply to one saga. An event with an Actor is audited.
type Change struct {
	SagaID     string
	Event      saga.Event
	IfVersions []int64 // apply only at one of these versions, else [ErrStale]; nil: at any
	Subject    string  // what else the audit row names: the operation that this is part of
	MemberID   string  // of a reply: the member whose saga it must be; "": any
	// TraceParent is the trace context of the reply, or of that operation; "" for none.
	TraceParent string
}

// Result is what became of a Change. Outcome is empty if the saga does not exist or belongs to another member.
type Result struct {
	Change
	Record
	Outcome saga.Outcome
}

// errMissed means that another transaction moved a saga between our read and our write.
var errMissed = fmt.Errorf("compare-and-swap missed: %w", service.ErrConflict)

// Apply decides and stores changes in one transaction. Changes to one saga keep the order given; results are
// ordered by saga. Each transition applies only to the version that it was decided on: if another transaction
// wins the race, Apply loads and decides everything again, as [service.Repeat] does. If the database rejects
// the saga's row, a single withdrawal still erases the member's data; its outcome is then [saga.Recorded]. A
// change whose IfVersions do not match is [ErrStale].
func (s *Store) Apply(ctx context.Context, changes ...Change) ([]Result, error) {
	// Sagas are always updated in the same order, so that transactions cannot deadlock.
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.SagaID, b.SagaID) })
	var results []Result
	err := s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		records, err := load(ctx, tx, changes)
		if err != nil {
			return err
		}
		results, err = s.applyTx(ctx, tx, records, changes)
		return err
	})
	if service.Defective(err) && len(changes) == 1 && changes[0].Event.Kind == saga.Withdraw {
		return s.eraseAlone(ctx, changes[0], err)
	}
	return results, err
}

func load(ctx context.Context, tx pgx.Tx, changes []Change) (map[string]Record, error) {
	ids := make([]string, 0, len(changes))
	for _, c := range changes {
		if id, err := uuid.FromString(c.SagaID); err == nil {
			ids = append(ids, id.String())
		}
	}
	rows, _ := tx.Query(ctx, "-- name: loadSagas\n"+selectRecord+" WHERE s.id = ANY ($1::text[]::uuid[])", ids)
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
	results, rest := make([]Result, len(changes)), new(pgx.Batch)
	moved := make(map[string]int64) // saga id → the version that was loaded
	var lines []line
	var spans []trace.Span
	defer func() {
		for _, span := range spans {
			span.End()
		}
	}()
	for i, c := range changes {
		r, ok := records[c.SagaID]
		if !ok || c.MemberID != "" && c.MemberID != r.MemberID {
			results[i] = Result{Change: c}
			continue
		}
		if c.IfVersions != nil && !slices.Contains(c.IfVersions, r.Version) {
			return nil, ErrStale
		}
		before := r.Saga
		var effects []contract.Type
		var outcome saga.Outcome
		r.Saga, effects, outcome = s.steps.Decide(before, c.Event, r.Now)
		if s.Tracer != nil {
			spans = append(spans, s.trace(ctx, rest, c, &r, outcome))
		}
		if c.Event.Kind == saga.Withdraw { // whatever the outcome
			s.erase(rest, &r)
		}
		if outcome != saga.Unchanged && outcome != saga.Refused {
			if _, ok := moved[r.ID]; !ok && outcome != saga.Recorded {
				moved[r.ID] = before.Version
			}
			lines = append(lines, newLine(r.Saga, c.Event, outcome, lines))
			if err := s.write(rest, before, &r, c, effects); err != nil {
				return nil, err
			}
		}
		results[i], records[c.SagaID] = Result{c, r, outcome}, r
	}
	b := new(pgx.Batch)
	update(b, records, moved)
	timeline(b, lines)
	b.QueuedQueries = append(b.QueuedQueries, rest.QueuedQueries...)
	return results, tx.SendBatch(ctx, b).Close()
}

// applyEach is applyTx for independent changes. If the database rejects the batch, applyEach applies each
// change in its own savepoint. It logs the changes that are still rejected and returns their saga ids in
// refused.
func (s *Store) applyEach(
	ctx context.Context, tx pgx.Tx, records map[string]Record, changes []Change,
) (results []Result, refused []string, err error) {
	try := func(changes []Change) (results []Result, err error) {
		err = pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
			results, err = s.applyTx(ctx, savepoint, maps.Clone(records), changes)
			return err
		})
		return results, err
	}
	if results, err = try(changes); !service.Defective(err) {
		return results, nil, err
	}
	results = nil
	for _, c := range changes {
		one, err := try([]Change{c})
		if service.Defective(err) {
			s.logger().ErrorContext(ctx, "the database refuses the change; the saga stays as it is",
				"saga_id", c.SagaID, "kind", c.Event.Kind, "error", err)
			refused = append(refused, c.SagaID)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		results = append(results, one...)
	}
	return results, refused, nil
}

// write queues the audit row and the events of an outcome.
func (s *Store) write(b *pgx.Batch, before saga.Saga, r *Record, c Change, effects []contract.Type) error {
	if c.Event.Actor != "" {
		auditChange(b, before, r.Saga, c)
	}
	return queueEffects(b, *r, effects)
}

// update queues the transitions of all moved sagas in one statement. A row changes only if it still has the
// version that the decision was made on; if any row does not, the statement fails with errMissed. Rows are
// locked in the order of their ids, so that replicas cannot deadlock; ANY lets every plan find them by their
// key.
func update(b *pgx.Batch, records map[string]Record, moved map[string]int64) {
	if len(moved) == 0 {
		return
	}
	ids := slices.Sorted(maps.Keys(moved))
	b.Queue(`-- name: updateSagas
WITH locked AS MATERIALIZED (SELECT id FROM signup_saga WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE)
UPDATE signup_saga s SET state = n.state, generation = n.generation, version = n.version,
       redrives = n.redrives, retry_open = n.retry_open, opened_at = n.opened_at, commanded_at = n.commanded_at,
           due_at = n.due_at,
       error_class = n.class, error_message = n.message, error_fingerprint = n.fingerprint, updated_at = n.updated_at,
           step = n.step,
       retried = n.retried
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::bool[], $8::timestamptz[],
            $9::timestamptz[], $10::timestamptz[], $11::text[], $12::text[], $13::text[], $14::timestamptz[],
            $15::smallint[], $16::bool[])
     AS n (id, was, state, generation, version, redrives, retry_open, opened_at,
           commanded_at, due_at, class, message, fingerprint, updated_at, step, retried) JOIN locked USING (id)
WHERE s.id = n.id AND s.id = ANY ($1) AND s.version = n.was`,
		ids, column(ids, func(id string) int64 { return moved[id] }),
		column(ids, func(id string) string { return string(records[id].State) }),
		column(ids, func(id string) int64 { return records[id].Generation }),
		column(ids, func(id string) int64 { return records[id].Version }),
		column(ids, func(id string) int { return records[id].Redrives }),
		column(ids, func(id string) bool { return records[id].RetryOpen }),
		column(ids, func(id string) time.Time { return records[id].OpenedAt }),
		column(ids, func(id string) time.Time { return records[id].CommandedAt }),
		column(ids, func(id string) *time.Time { return records[id].DueAt }),
		column(ids, func(id string) string { return records[id].ErrorClass }),
		column(ids, func(id string) string { return records[id].ErrorMessage }),
		column(ids, func(id string) string { return records[id].ErrorFingerprint }),
		column(ids, func(id string) time.Time { return records[id].UpdatedAt }),
		column(ids, func(id string) int { return records[id].Step }),
		column(ids, func(id string) bool { return records[id].Retried })).
		Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != int64(len(ids)) {
				return errMissed
			}
			return nil
		})
}

// column returns one value of each row, such as a column for unnest.
func column[R, T any](rows []R, value func(R) T) []T {
	values := make([]T, len(rows))
	for i, r := range rows {
		values[i] = value(r)
	}
	return values
}

// line is a row of the timeline.
type line struct {
	saga            saga.Saga
	event           saga.Event
	kind, messageID string
	before          int // rows of the same saga before it in this batch; -1: always added
}

// newLine returns the timeline row of an outcome. Transitions always get a row. A recorded message gets one
// row, however often it is delivered. Once a saga has 200 rows, only transitions are added, so that repeated
// messages cannot fill the disk.
func newLine(s saga.Saga, e saga.Event, outcome saga.Outcome, before []line) line {
	l := line{saga: s, event: e, kind: string(e.Kind)}
	switch outcome {
	case saga.GaveUp, saga.Redriven:
		l.kind = string(outcome)
	case saga.Recorded:
		l.messageID = e.MessageID
		if e.Kind != saga.AttemptFailed {
			l.kind += "_ignored"
		}
	}
	if outcome == saga.Advanced || outcome == saga.GaveUp {
		l.before = -1
		return l
	}
	for _, other := range before {
		if other.saga.ID == s.ID {
			l.before++
		}
	}
	return l
}

func timeline(b *pgx.Batch, lines []line) {
	if len(lines) == 0 {
		return
	}
	b.Queue(`-- name: addTimeline
INSERT INTO saga_event (saga_id, kind, state, version, generation, attempt, detail, actor, message_id)
SELECT saga_id, kind, state, version, generation, attempt, detail, actor, nullif(message_id, '')
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::text[], $8::text[],
    $9::text[], $10::int[])
     AS l (saga_id, kind, state, version, generation, attempt, detail, actor, message_id, before)
WHERE before < 0 OR before + (SELECT count(*) FROM saga_event e WHERE e.saga_id = l.saga_id) < 200
ON CONFLICT (saga_id, message_id) DO NOTHING`,
		column(lines, func(l line) string { return l.saga.ID }),
		column(lines, func(l line) string { return l.kind }),
		column(lines, func(l line) string { return string(l.saga.State) }),
		column(lines, func(l line) int64 { return l.saga.Version }),
		column(lines, func(l line) int64 { return max(l.event.Generation, l.saga.Generation) }),
		column(lines, func(l line) int { return max(l.event.Attempt, l.saga.Redrives) }),
		column(lines, func(l line) string {
			return cmp.Or(l.event.Reason, l.event.Error.Message, l.saga.ErrorMessage, l.event.Step)
		}),
		column(lines, func(l line) string { return l.event.Actor }),
		column(lines, func(l line) string { return l.messageID }),
		column(lines, func(l line) int { return l.before }))
}

func auditChange(b *pgx.Batch, before, after saga.Saga, c Change) {
	facts := func(s saga.Saga) map[string]any {
		return map[string]any{"state": s.State, "generation": s.Generation, "version": s.Version,
			"error": s.ErrorMessage}
	}
	audit(b, Act{Actor: c.Event.Actor, Action: string(c.Event.Kind), SagaID: &after.ID, Subject: c.Subject,
		Reason: c.Event.Reason}, facts(before), facts(after))
}

// Redrive sends again the commands that are due, published and unanswered: at most limit per call and perSecond
// over time, counted in Postgres for all replicas together. A command that is still in the outbox is not sent
// again, so a broker outage does not grow the outbox. A saga past its give-up age is marked so even if its
// command is not published yet. Sagas at a step that only a newer version knows are left to that version.
// Redrive returns the number of due sagas that it handled.
func (s *Store) Redrive(ctx context.Context, perSecond, limit int) (int, error) {
	var due []Record
	err := s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		due = nil
		lane, err := outbox.ReadStatus(ctx, tx, string(contract.Essential))
		if err != nil {
			return err
		}
		var published *time.Time // commands sent before this are published; nil: all are
		if !lane.OldestPending.IsZero() {
			published = &lane.OldestPending
		}
		var allowed int
		if err := tx.QueryRow(ctx, `-- name: readBudget
SELECT floor(least($1::float8, tokens + $1::float8 * extract(epoch FROM clock_timestamp() - refilled_at)))::int
FROM redrive_budget FOR UPDATE`, perSecond).Scan(&allowed); err != nil || allowed < 1 {
			return err
		}
		rows, _ := tx.Query(ctx, "-- name: claimDue\n"+selectRecord+`
WHERE s.due_at <= now() AND s.step < cardinality($2::float8[])
      AND (s.commanded_at < coalesce($1::timestamptz, 'infinity') OR s.commanded_at > now() -- a damaged row
      OR s.state IN ('provisioning', 'withdrawing')
          AND s.opened_at <= now() - make_interval(secs => ($2::float8[])[s.step + 1]))
ORDER BY s.due_at LIMIT $3 FOR NO KEY UPDATE OF s SKIP LOCKED`, published,
			s.seconds(func(st saga.Step) time.Duration { return st.GiveUpAge }), min(limit, allowed))
		if due, err = pgx.CollectRows(rows, pgx.RowToStructByName[Record]); err != nil || len(due) == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `-- name: spendBudget
UPDATE redrive_budget SET refilled_at = clock_timestamp(),
       tokens = greatest(0, least($1::float8, tokens + $1::float8 * extract(epoch
           FROM clock_timestamp() - refilled_at)) - $2)`,
			perSecond, len(due)); err != nil {
			return err
		}
		changes := make([]Change, len(due))
		for i, r := range due {
			changes[i] = Change{SagaID: r.ID, Event: saga.Event{Kind: saga.TimerDue, Jitter: rand.Float64()}}
		}
		_, refused, err := s.applyEach(ctx, tx, byID(due), changes)
		if err != nil || len(refused) == 0 {
			return err
		}
		// Sagas that the database rejects must not block the sagas behind them.
		_, err = tx.Exec(ctx, `-- name: postponeRefused
UPDATE signup_saga SET due_at = now() + interval '1 hour' WHERE id = ANY ($1::text[]::uuid[])`, refused)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(due), nil
}

// seconds returns one duration of each step, in seconds. Queries index the result by a saga's step.
func (s *Store) seconds(of func(saga.Step) time.Duration) []float64 {
	all := make([]float64, len(s.steps))
	for i, st := range s.steps {
		all[i] = of(st).Seconds()
	}
	return all
}
