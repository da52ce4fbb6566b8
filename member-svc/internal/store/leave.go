package store

import (
	"crypto/hmac"
	"crypto/sha256"

	"github.com/jackc/pgx/v5"
)

// erase forgets who the member is, in the transaction that begins the withdrawal.
// What stays are ids, the plan, the timeline, and a keyed HMAC of the name, which
// keeps it taken. The member's row comes before the sessions: whoever opens one
// locks that row too, so that none begins behind our back.
func (s *Store) erase(b *pgx.Batch, r *Record) {
	b.Queue(`-- name: eraseMember
UPDATE member SET username = NULL, username_key = NULL, name_mac = $2, email = NULL, password_hash = '' WHERE id = $1`,
		r.MemberID, s.nameMAC(*r.UsernameKey))
	b.Queue("-- name: endSessions\nDELETE FROM session WHERE member_id = $1", r.MemberID)
	b.Queue("-- name: dropMails\nUPDATE mail SET state = 'dropped', finished_at = now() WHERE member_id = $1 AND state = 'queued'", r.MemberID)
	b.Queue("-- name: forgetKeys\nDELETE FROM idempotency_key WHERE member_id = $1", r.MemberID)
	r.Username, r.UsernameKey = nil, nil
}

// nameMAC is what is kept of a name. It is keyed, so that a stolen database does not
// tell whether somebody was a member.
func (s *Store) nameMAC(usernameKey string) []byte {
	h := hmac.New(sha256.New, s.secret)
	h.Write([]byte("username\x00" + usernameKey)) // request bodies, which the secret also keys, begin otherwise
	return h.Sum(nil)
}
