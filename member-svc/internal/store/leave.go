package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
)

// erase erases the member's personal data, unless that is already done, in the transaction that begins the
// withdrawal. Ids, the plan, the timeline and a keyed HMAC of the username stay; the HMAC keeps the username
// taken. The member's row is updated before the sessions are deleted: opening a session locks the same row, so
// no session can appear in between.
func (s *Store) erase(b *pgx.Batch, r *Record) {
	if r.UsernameKey == nil {
		return
	}
	b.Queue(`-- name: eraseMember
UPDATE member SET username = NULL, username_key = NULL, name_mac = $2, email = NULL, password_hash = '' WHERE id = $1`,
		r.MemberID, s.nameMAC(*r.UsernameKey))
	b.Queue("-- name: endSessions\nDELETE FROM session WHERE member_id = $1", r.MemberID)
	b.Queue(
		"-- name: dropMails\nUPDATE mail SET state = 'dropped', finished_at = now() WHERE member_id = $1 AND state "+
			"= 'queued'", r.MemberID)
	b.Queue("-- name: forgetKeys\nDELETE FROM idempotency_key WHERE member_id = $1", r.MemberID)
	r.Username, r.UsernameKey = nil, nil
}

// eraseAlone erases the member's personal data although the database rejects the saga's next row, with the
// error cause. The storage stays until the row is repaired; then reconciliation withdraws the saga.
func (s *Store) eraseAlone(ctx context.Context, c Change, cause error) ([]Result, error) {
	result := Result{Change: c}
	err := s.tx.Do(ctx, nil, func(tx pgx.Tx) error {
		records, err := load(ctx, tx, []Change{c})
		r, found := records[c.SagaID]
		if err != nil || !found {
			return err
		}
		if c.IfVersions != nil && !slices.Contains(c.IfVersions, r.Version) {
			return ErrStale
		}
		b := new(pgx.Batch)
		timeline(b, []line{{saga: r.Saga, event: c.Event, kind: string(saga.Erased), before: -1}})
		s.erase(b, &r)
		if err := s.write(b, r.Saga, &r, c, nil); err != nil {
			return err
		}
		result.Record, result.Outcome = r, saga.Recorded
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return nil, err
	}
	s.logger().ErrorContext(ctx,
		"member erased, but the database refuses to change the saga; repair its row",
		"saga_id", c.SagaID, "error", cause)
	return []Result{result}, nil
}

// nameMAC returns the HMAC under which a username stays taken. It is keyed, so that a stolen database does not
// reveal whether someone was a member.
func (s *Store) nameMAC(usernameKey string) []byte {
	h := hmac.New(sha256.New, s.secret)
	h.Write([]byte("username\x00" + usernameKey)) // the prefix sets it apart from request fingerprints
	return h.Sum(nil)
}
