package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/outbox"
)

// member is the part of a saga that the comparison of one of its steps needs.
type member struct {
	MemberID string
	SagaID   string
	State    saga.State
	Newest   int // the saga's step
	Version  int64
	Settled  bool // unchanged for MinAge

	step int
}

// Key implements reconcile.Keyed.
func (m member) Key() string { return key(m.MemberID, m.step) }

// key returns the key of a member at a step: the member's id for the first step, and the id with the step
// appended for the others. All ids have the same length, so keys order by member, then by step.
func key(memberID string, step int) string {
	if step == 0 {
		return memberID
	}
	return fmt.Sprintf("%s/%d", memberID, step)
}

// splitKey is the inverse of key. A key of another form belongs to the first step.
func splitKey(key string) (memberID string, step int) {
	memberID, text, _ := strings.Cut(key, "/")
	step, _ = strconv.Atoi(text)
	return memberID, step
}

const selectMembers = `SELECT member_id::text, id::text AS saga_id, state, step AS newest, version,
       updated_at <= now() - make_interval(secs => $1) AS settled
FROM signup_saga `

// members returns a page of sagas in the order of their members' ids, each once for every step that is
// compared.
func (r *Reconciler) members(ctx context.Context, after string) ([]member, error) {
	after, _ = splitKey(cmp.Or(after, uuid.Nil.String()))
	rows, err := r.Pool.Query(ctx, "-- name: listMembers\n"+selectMembers+
		"WHERE member_id > $2 ORDER BY member_id LIMIT $3",
		r.MinAge.Seconds(), after, pageSize)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[member])
	var parts []member
	for _, m := range found {
		for m.step = range r.participants {
			if r.participants[m.step] != nil {
				parts = append(parts, m)
			}
		}
	}
	return parts, err
}

// member reads one member again; nil if there is none.
func (r *Reconciler) member(ctx context.Context, memberID string, step int) (*member, error) {
	rows, err := r.Pool.Query(ctx, "-- name: readMember\n"+selectMembers+"WHERE member_id = $2", r.MinAge.Seconds(),
		memberID)
	if err != nil {
		return nil, fmt.Errorf("read member: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[member])
	if err != nil || len(found) == 0 {
		return nil, err
	}
	found[0].step = step
	return &found[0], nil
}

// errOvertaken means that the saga has changed since it was read, or that a command was just sent.
var errOvertaken = errors.New("the saga has changed meanwhile")

// command sends the command of the saga's state again, with the same generation. In one transaction it stores
// the event, the time of the newest command and a timeline row, if the saga still has the version that was read
// and the last command is older than MinAge. It reports whether it did.
func (r *Reconciler) command(ctx context.Context, m member, why string) (bool, error) {
	err := r.tx.Do(ctx, r.wake, func(tx pgx.Tx) error {
		record := store.Record{Saga: saga.Saga{ID: m.SagaID, MemberID: m.MemberID, State: m.State}}
		err := tx.QueryRow(ctx, `-- name: commandAgain
UPDATE signup_saga s SET commanded_at = now() FROM member m
WHERE s.id = $1 AND s.version = $2 AND m.id = s.member_id
      AND NOT s.commanded_at BETWEEN now() - make_interval(secs => $3) AND now() -- later: a damaged row
RETURNING s.generation, m.plan, coalesce(s.traceparent, '')`, m.SagaID, m.Version, r.MinAge.Seconds()).
			Scan(&record.Generation, &record.Plan, &record.TraceParent)
		if errors.Is(err, pgx.ErrNoRows) {
			return errOvertaken
		}
		if err != nil {
			return err
		}
		// Bounded: a difference that no command can repair is found again by each run.
		if _, err := tx.Exec(ctx, `-- name: addReconciled
INSERT INTO saga_event (saga_id, kind, state, version, generation, detail)
SELECT $1::uuid, 'commanded_again', $2, $3, $4, $5 WHERE (SELECT count(*) FROM saga_event
    WHERE saga_id = $1::uuid) < 200`,
			m.SagaID, string(m.State), m.Version, record.Generation, why); err != nil {
			return err
		}
		event, err := store.Message(record, r.steps[m.step].Asks(m.State))
		if err != nil {
			return err
		}
		return outbox.Append(ctx, tx, event)
	})
	if errors.Is(err, errOvertaken) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("send command again: %w", err)
	}
	return true, nil
}

// quarantine records a storage without a known owner.
func (r *Reconciler) quarantine(ctx context.Context, s Storage) error {
	_, err := r.Pool.Exec(ctx, `-- name: quarantineStorage
INSERT INTO quarantine (member_id, saga_id, generation, status) VALUES ($1, $2, $3, $4)
ON CONFLICT (member_id) DO UPDATE SET saga_id = $2, generation = $3, status = $4,
    last_seen = now()`, s.MemberID, s.SagaID, s.Generation, s.Status)
	if err != nil {
		return fmt.Errorf("quarantine storage: %w", err)
	}
	return nil
}

// Ledger counts the members by their state, in one snapshot.
type Ledger struct {
	Accepted       int // members: everyone who was ever answered 201
	Ready          int
	InProgress     int
	NeedsAttention int
	Withdrawn      int
}

// Balances reports whether every accepted signup is in one of the states.
func (l Ledger) Balances() bool {
	return l.Accepted == l.Ready+l.InProgress+l.NeedsAttention+l.Withdrawn
}

func (r *Reconciler) ledger(ctx context.Context) (Ledger, error) {
	rows, err := r.Pool.Query(ctx, `-- name: countLedger
SELECT (SELECT count(*) FROM member) AS accepted,
       count(*) FILTER (WHERE state = 'ready') AS ready,
       count(*) FILTER (WHERE state IN ('provisioning', 'withdrawing')) AS in_progress,
       count(*) FILTER (WHERE state IN ('needs_attention', 'withdraw_needs_attention')) AS needs_attention,
       count(*) FILTER (WHERE state = 'withdrawn') AS withdrawn
FROM signup_saga`)
	if err != nil {
		return Ledger{}, fmt.Errorf("count ledger: %w", err)
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Ledger])
}
