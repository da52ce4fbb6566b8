package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// addressRest is the time between two welcome mails to one address.
const addressRest = 24 * time.Hour

// Mail is a claimed row of table mail. Until is the end of the claim; no other claim has the same.
type Mail struct {
	MemberID string
	Attempts int
	Copies   int
	Until    time.Time
	Email    *string
	Expired  bool
}

// QueueMails inserts one row for each of the members who has an address.
func (s *Store) QueueMails(ctx context.Context, members []string) error {
	// The sub-select hides the ids from the planner, so that it plans only once: planning takes longer than the
	// work.
	_, err := s.pool.Exec(ctx, `-- name: queueMails
INSERT INTO mail (member_id, kind)
SELECT id, 'welcome' FROM member WHERE id = ANY ((SELECT $1::text[])::uuid[]) AND email IS NOT NULL
ON CONFLICT DO NOTHING`, members)
	return err
}

// ClaimMails claims up to limit mails that are due, for the time of the lease. Those older than maxAge are marked.
func (s *Store) ClaimMails(ctx context.Context, lease, maxAge time.Duration, limit int) ([]Mail, error) {
	rows, _ := s.pool.Query(ctx, `-- name: claimMails
WITH due AS MATERIALIZED (
    SELECT member_id, kind FROM mail WHERE state = 'queued' AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE mail l SET next_attempt_at = now() + make_interval(secs => $1)
FROM due JOIN member m ON m.id = due.member_id WHERE l.member_id = due.member_id AND l.kind = due.kind
RETURNING l.member_id, l.attempts, l.copies, l.next_attempt_at AS until, m.email,
          l.created_at < now() - make_interval(secs => $3) AS expired`, lease.Seconds(), limit, maxAge.Seconds())
	return pgx.CollectRows(rows, pgx.RowToStructByName[Mail])
}

// StartMail is the last check before a mail is sent: its member has not left, and the address with this HMAC got no
// other welcome mail within a day. From here on the mail counts as a copy and is not due again for the time of the
// lease, even if this process crashes. If it must not be sent, the reason says why. If neither is so, the claim has
// expired, and another replica has the mail.
func (s *Store) StartMail(
	ctx context.Context, m Mail, addressMAC []byte, lease time.Duration,
) (started bool, reason string, err error) {
	var stays, first bool
	err = s.pool.QueryRow(ctx, `-- name: openMail
WITH letter AS (
    SELECT FROM mail l JOIN member m ON m.id = l.member_id
    WHERE l.member_id = $1 AND l.kind = 'welcome' AND l.state = 'queued' AND m.email = $2
), address AS (
    INSERT INTO mailed_address AS a (mac, member_id) SELECT $3::bytea, $1::uuid FROM letter
    ON CONFLICT (mac) DO UPDATE SET member_id = excluded.member_id, used_at = now()
    WHERE a.member_id = excluded.member_id OR a.used_at <= now() - make_interval(secs => $4)
    RETURNING mac
), opened AS (
    UPDATE mail SET next_attempt_at = now() + make_interval(secs => $5), copies = copies + 1
    WHERE member_id = $1 AND kind = 'welcome' AND state = 'queued' AND next_attempt_at = $6
      AND EXISTS (SELECT FROM address)
    RETURNING member_id
)
SELECT EXISTS (SELECT FROM letter), EXISTS (SELECT FROM address), EXISTS (SELECT FROM opened)`,
		m.MemberID, *m.Email, addressMAC, addressRest.Seconds(), lease.Seconds(), m.Until).
		Scan(&stays, &first, &started)
	switch {
	case err != nil:
	case !stays:
		reason = "the member has left"
	case !first:
		reason = "the address had a welcome mail within a day"
	}
	return started, reason, err
}

// MailResult is what happens to a mail next. Attempts and Copies are added to the row: Copies is -1 unless the text
// may have arrived, because StartMail has already counted the copy.
type MailResult struct {
	State    string
	Attempts int
	Copies   int
	Wait     time.Duration
	Reason   string
}

// FinishMail stores what happens to a mail next, and returns how many rows it changed.
func (s *Store) FinishMail(ctx context.Context, memberID string, r MailResult) (int, error) {
	tag, err := s.pool.Exec(ctx, `-- name: settleMail
UPDATE mail SET state = $2, attempts = attempts + $3, copies = copies + $4,
       next_attempt_at = now() + make_interval(secs => $5),
       error = CASE WHEN $6 = '' AND $2 = 'dropped' THEN error ELSE $6 END,
       finished_at = CASE WHEN $2 <> 'queued' THEN now() END
WHERE member_id = $1 AND kind = 'welcome' AND state = 'queued'`,
		memberID, r.State, r.Attempts, r.Copies, r.Wait.Seconds(), r.Reason)
	return int(tag.RowsAffected()), err
}

// ReleaseMails ends the claims of mails that were not started.
func (s *Store) ReleaseMails(ctx context.Context, mails []Mail, reason string) error {
	_, err := s.pool.Exec(ctx, `-- name: releaseMails
UPDATE mail SET next_attempt_at = now(), error = CASE WHEN $3 = '' THEN error ELSE $3 END
FROM unnest($1::text[]::uuid[], $2::timestamptz[]) AS claim (member, until)
WHERE member_id = member AND kind = 'welcome' AND state = 'queued' AND next_attempt_at = until`,
		column(mails, func(m Mail) string { return m.MemberID }),
		column(mails, func(m Mail) time.Time { return m.Until }),
		reason)
	return err
}

// ForgetMailedAddresses deletes up to limit addresses that may get another welcome mail, and returns how many it
// deleted.
func (s *Store) ForgetMailedAddresses(ctx context.Context, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, `-- name: forgetMailedAddresses
DELETE FROM mailed_address WHERE mac IN (
    SELECT mac FROM mailed_address WHERE used_at <= now() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)`,
		addressRest.Seconds(), limit)
	return tag.RowsAffected(), err
}
