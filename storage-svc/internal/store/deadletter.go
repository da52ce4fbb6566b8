package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// DeadLetter is a dead letter as it is stored.
type DeadLetter struct {
	ID         string          `db:"fingerprint"`
	Subject    string          `db:"subject"`
	SagaID     *string         `db:"saga_id"`
	Generation int64           `db:"generation"` // 0 if unknown
	Reason     string          `db:"reason"`
	Headers    json.RawMessage `db:"headers"`
	Start      []byte          `db:"start"` // of the body: at most 1 KiB
	Bytes      int             `db:"bytes"` // in the whole body
	Seen       int64           `db:"seen"`
	FirstSeen  time.Time       `db:"first_seen"`
	LastSeen   time.Time       `db:"last_seen"`
}

// KnownID reports whether id looks like that of a dead letter.
func KnownID(id string) bool {
	raw, err := hex.DecodeString(id)
	return err == nil && len(raw) == sha256.Size
}

// DeadLetters returns up to limit dead letters, newest first: those that follow the given one in that order, or
// the first ones if the given ID is empty.
func (s *Store) DeadLetters(ctx context.Context, after DeadLetter, limit int) ([]DeadLetter, error) {
	where, args := "", []any{limit}
	if after.ID != "" {
		where, args = "WHERE (first_seen, fingerprint) < ($2, $3)", append(args, after.FirstSeen, after.ID)
	}
	rows, _ := s.pool.Query(ctx, `-- name: listDeadLetters
SELECT fingerprint, subject, saga_id::text, generation, reason, headers, substring(body FOR 1024)
    AS start, length(body) AS bytes,
	seen, first_seen, last_seen
FROM dead_letter `+where+` ORDER BY first_seen DESC, fingerprint DESC LIMIT $1`, args...)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[DeadLetter])
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return page, nil
}

// Requeue implements provision.Inbox. It locks the storage before the dead letter, as Apply does, so that the
// two cannot deadlock. If the same letter is requeued twice at once, the second call finds it gone and rolls
// back.
func (s *Store) Requeue(ctx context.Context, id string, parse func(service.Message) (provision.Command, error)) error {
	if !KnownID(id) {
		return ErrNotFound
	}
	err := s.tx.Do(ctx, s.wake, func(tx pgx.Tx) error {
		m, err := message(ctx, tx, id)
		if err != nil {
			return err
		}
		c, err := parse(m)
		if err != nil {
			return err
		}
		replies, err := applyCommands(ctx, tx, []provision.Command{c})
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, "-- name: deleteDeadLetter\nDELETE FROM dead_letter WHERE fingerprint = $1", id)
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrNotFound
		}
		if err != nil {
			return err
		}
		return appendReplies(ctx, tx, replies)
	})
	if err != nil {
		return fmt.Errorf("requeue dead letter: %w", err)
	}
	return nil
}

// ForgetDeadLetters deletes up to limit dead letters: those that were not seen again within retention, and
// those that are not among the newest, of which it keeps most. It returns how many it deleted. It skips letters
// that are locked because they are just being seen again.
func (s *Store) ForgetDeadLetters(ctx context.Context, retention time.Duration, most, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: forgetDeadLetters
DELETE FROM dead_letter WHERE fingerprint = ANY (ARRAY(
	SELECT fingerprint FROM dead_letter
	WHERE last_seen < now() - $1::interval
	OR (first_seen, fingerprint) <= (SELECT first_seen, fingerprint FROM dead_letter
	    ORDER BY first_seen DESC, fingerprint DESC OFFSET $2 LIMIT 1)
	ORDER BY fingerprint LIMIT $3 FOR UPDATE SKIP LOCKED))`, retention, most, limit)
	if err != nil {
		return 0, fmt.Errorf("delete old dead letters: %w", err)
	}
	return tag.RowsAffected(), nil
}

// message returns the message of a dead letter, as it was delivered.
func message(ctx context.Context, tx pgx.Tx, id string) (m service.Message, err error) {
	var headers []byte
	err = tx.QueryRow(ctx,
		"-- name: getDeadLetter\nSELECT subject, headers::text, body FROM dead_letter WHERE fingerprint = $1", id).
		Scan(&m.Subject, &headers, &m.Body)
	if errors.Is(err, pgx.ErrNoRows) {
		return m, ErrNotFound
	}
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(headers, &m.Headers)
}

// insertDeadLetters stores dead letters in the order of their fingerprints, so that replicas that get the same messages
// cannot deadlock.
func insertDeadLetters(ctx context.Context, tx pgx.Tx, dead []provision.DeadLetter) error {
	b := new(pgx.Batch)
	for _, d := range slices.SortedFunc(slices.Values(dead),
		func(a, b provision.DeadLetter) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) }) {
		b.Queue(`-- name: insertDeadLetter
INSERT INTO dead_letter (fingerprint, subject, saga_id, generation, reason, headers, body)
VALUES ($1, $2, NULLIF($3, '')::uuid, $4, $5, $6, $7)
ON CONFLICT (fingerprint) DO UPDATE SET seen = dead_letter.seen + 1, last_seen = now()`,
			d.Fingerprint, d.Subject, d.SagaID, d.Generation, d.Reason, d.Headers, d.Body)
	}
	return tx.SendBatch(ctx, b).Close()
}
