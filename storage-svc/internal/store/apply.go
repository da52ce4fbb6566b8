package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// Apply implements provision.Inbox: it stores a batch of commands and dead letters in one transaction, with the
// replies that are due at once.
func (s *Store) Apply(ctx context.Context, commands []provision.Command, dead []provision.DeadLetter) error {
	err := s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		replies, err := applyCommands(ctx, tx, commands)
		if err != nil {
			return err
		}
		if err := insertDeadLetters(ctx, tx, dead); err != nil {
			return err
		}
		for _, d := range dead {
			if d.Reply != nil {
				replies = append(replies, *d.Reply)
			}
		}
		return appendReplies(ctx, tx, replies)
	})
	if err != nil {
		return fmt.Errorf("apply commands: %w", err)
	}
	return nil
}

// applyCommands inserts the storages of members that are new, then locks the rows of all other commands and
// decides on these one by one. Insertions and locks are both in the order of the members' ids, so that batches
// of several replicas cannot deadlock.
func applyCommands(ctx context.Context, tx pgx.Tx, commands []provision.Command) ([]provision.Reply, error) {
	if len(commands) == 0 {
		return nil, nil
	}
	commands = slices.Clone(commands)
	slices.SortStableFunc(commands, func(a, b provision.Command) int { return compare(a.MemberID, b.MemberID) })
	var fresh []provision.Storage
	for i, c := range commands {
		if i == 0 || c.MemberID != commands[i-1].MemberID {
			fresh = append(fresh, c.New())
		}
	}
	inserted, err := insert(ctx, tx, fresh)
	if err != nil {
		return nil, err
	}
	var rest []provision.Command
	for i, c := range commands {
		first := i == 0 || c.MemberID != commands[i-1].MemberID
		if !first || !inserted[c.MemberID] {
			rest = append(rest, c)
		}
	}
	if len(rest) == 0 {
		return nil, nil
	}
	return decide(ctx, tx, rest)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func insert(ctx context.Context, tx pgx.Tx, fresh []provision.Storage) (map[string]bool, error) {
	var c storageColumns
	for _, s := range fresh {
		c.add(s)
	}
	rows, _ := tx.Query(ctx, `-- name: insertStorages
INSERT INTO storage (member_id, saga_id, generation, desired, status, quota_bytes, next_attempt_at, traceparent)
SELECT id, saga, generation, desired, 'pending', quota, now(), coalesce(parent, '')
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::text[])
    AS c (id, saga, generation, desired, quota, parent)
ON CONFLICT (member_id) DO NOTHING RETURNING member_id::text`,
		c.id, c.saga, c.generation, c.desired, c.quota, c.traceparent)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	inserted := make(map[string]bool, len(ids))
	for _, id := range ids {
		inserted[id] = true
	}
	return inserted, err
}

func decide(ctx context.Context, tx pgx.Tx, commands []provision.Command) ([]provision.Reply, error) {
	ids := make([]string, len(commands))
	for i, c := range commands {
		ids[i] = c.MemberID
	}
	rows, _ := tx.Query(ctx, "-- name: lockStorages\nSELECT "+columns+
		" FROM storage WHERE member_id = ANY($1::uuid[]) ORDER BY member_id FOR UPDATE", ids)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[provision.Storage])
	if err != nil {
		return nil, err
	}
	current := make(map[string]provision.Storage, len(found))
	for _, s := range found {
		current[s.MemberID] = s
	}
	changed := make(map[string]bool)
	var replies []provision.Reply
	for _, c := range commands {
		next, change, reply := provision.Decide(current[c.MemberID], c)
		current[c.MemberID] = next
		changed[c.MemberID] = changed[c.MemberID] || change
		if reply != nil {
			replies = append(replies, *reply)
		}
	}
	var update storageColumns
	for _, s := range found {
		if changed[s.MemberID] {
			update.add(current[s.MemberID])
		}
	}
	if len(update.id) == 0 {
		return replies, nil
	}
	_, err = tx.Exec(ctx, `-- name: updateDesired
UPDATE storage s SET saga_id = saga, generation = c.generation, desired = c.desired, status = 'pending',
    quota_bytes = quota,
	attempts = 0, outage_attempts = 0, next_attempt_at = now(), last_error_class = NULL, last_error = NULL,
	version = c.version, updated_at = now(), traceparent = coalesce(parent, '')
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[])
    AS c (id, saga, generation, desired, quota, version, parent)
WHERE member_id = id AND member_id = ANY($1)`,
		update.id, update.saga, update.generation, update.desired, update.quota, update.version, update.traceparent)
	return replies, err
}

// storageColumns holds storages column by column, for unnest.
type storageColumns struct {
	id, saga, desired          []string
	generation, quota, version []int64
	traceparent                []string // may be shorter, since usually there are none: unnest adds NULLs
}

func (c *storageColumns) add(s provision.Storage) {
	c.id, c.saga, c.desired = append(c.id, s.MemberID), append(c.saga, s.SagaID), append(c.desired, string(s.Desired))
	c.generation, c.quota, c.version = append(c.generation, s.Generation), append(c.quota, s.QuotaBytes),
		append(c.version, s.Version)
	if s.TraceParent != "" {
		c.traceparent = append(c.traceparent, make([]string, len(c.id)-1-len(c.traceparent))...)
		c.traceparent = append(c.traceparent, s.TraceParent)
	}
}
