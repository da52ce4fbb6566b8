package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
)

// Progress is the part of a saga that reconciliation compares.
type Progress struct {
	MemberID string
	SagaID   string
	State    saga.State
	Step     int
	Version  int64
	AtRest   bool // unchanged for the minimum age
	Erased   bool // the member has left
}

const selectProgress = `SELECT member_id::text, id::text AS saga_id, state, step, version,
       updated_at <= now() - make_interval(secs => $1) AS at_rest,
       EXISTS (SELECT FROM member WHERE member.id = member_id AND username_key IS NULL) AS erased
FROM signup_saga `

// ListProgress returns up to limit sagas in the order of their members' ids, those after the given id.
func (s *Store) ListProgress(ctx context.Context, minAge time.Duration, after string, limit int) ([]Progress, error) {
	rows, err := s.pool.Query(ctx, "-- name: listMembers\n"+selectProgress+
		"WHERE member_id > $2 ORDER BY member_id LIMIT $3", minAge.Seconds(), after, limit)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[Progress])
}

// ReadProgress reads the saga of one member. The error is [ErrNotFound] if there is none.
func (s *Store) ReadProgress(ctx context.Context, minAge time.Duration, memberID string) (Progress, error) {
	rows, err := s.pool.Query(ctx, "-- name: readMember\n"+selectProgress+"WHERE member_id = $2", minAge.Seconds(),
		memberID)
	if err != nil {
		return Progress{}, fmt.Errorf("read member: %w", err)
	}
	return one[Progress](rows)
}

// CommandAgain sends a command of the saga's state again, with the same generation. In one transaction it stores the
// event, the time of the newest command and a timeline row, if the saga still has the version that was read and the
// last command is older than minAge. It reports whether it did.
func (s *Store) CommandAgain(
	ctx context.Context, p Progress, command contract.Type, minAge time.Duration, why string,
) (bool, error) {
	err := s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		r := Record{Saga: saga.Saga{ID: p.SagaID, MemberID: p.MemberID, State: p.State, Version: p.Version}}
		if err := tx.QueryRow(ctx, `-- name: commandAgain
UPDATE signup_saga s SET commanded_at = now() FROM member m
WHERE s.id = $1 AND s.version = $2 AND m.id = s.member_id
      AND NOT s.commanded_at BETWEEN now() - make_interval(secs => $3) AND now() -- later: a damaged row
RETURNING s.generation, m.plan, coalesce(s.traceparent, '')`, p.SagaID, p.Version, minAge.Seconds()).
			Scan(&r.Generation, &r.Plan, &r.TraceParent); err != nil {
			return err
		}
		b := new(pgx.Batch)
		timeline(b, []line{{saga: r.Saga, event: saga.Event{Reason: why}, kind: string(saga.CommandedAgain)}})
		if err := queueEffects(b, r, []contract.Type{command}); err != nil {
			return err
		}
		return tx.SendBatch(ctx, b).Close()
	})
	if errors.Is(err, pgx.ErrNoRows) { // the saga has changed since, or a command was just sent
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("send command again: %w", err)
	}
	return true, nil
}

// FinishLeaving withdraws the saga of a member who was erased although the database refused to change the saga, if
// the saga still has the version that was read. It reports whether the database accepts the change now.
func (s *Store) FinishLeaving(ctx context.Context, p Progress, why string) (bool, error) {
	results, err := s.Apply(ctx, Change{
		SagaID: p.SagaID, IfVersions: []int64{p.Version}, Event: saga.Event{Kind: saga.Withdraw, Reason: why},
	})
	if errors.Is(err, ErrStale) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("finish leaving: %w", err)
	}
	return results[0].Outcome != saga.Recorded, nil
}

// Quarantine records a storage without a known owner.
func (s *Store) Quarantine(ctx context.Context, found wire.MemberStorage) error {
	_, err := s.pool.Exec(ctx, `-- name: quarantineStorage
INSERT INTO quarantine (member_id, saga_id, generation, status) VALUES ($1, $2, $3, $4)
ON CONFLICT (member_id) DO UPDATE SET saga_id = $2, generation = $3, status = $4, last_seen = now()`,
		found.MemberID, found.SagaID, found.Generation, found.Status)
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

// Ledger counts all members.
func (s *Store) Ledger(ctx context.Context) (Ledger, error) {
	rows, err := s.pool.Query(ctx, `-- name: countLedger
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
