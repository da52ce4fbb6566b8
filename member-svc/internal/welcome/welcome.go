// Package welcome sends the welcome mail, which is non-essential. The consumer only inserts a row; a worker
// sends the mails that are due. Attempts, age and copies are bounded, and nothing here can delay a signup.
// docs/mail.md describes how the worker treats mail servers, and why. The address is read when the mail is
// sent, so a member who has left by then gets none.
package welcome

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/email"
	"github.com/signup-saga/signup-saga/service"
)

const (
	batchSize    = 20
	claimLease   = 5 * time.Minute  // of a claimed batch that waits for its turn
	letterLease  = 30 * time.Minute // longer than all timeouts of one letter, so that no replica sends it twice
	maxCopies    = 3                // of a letter whose arrival is in doubt
	dialTimeout  = 30 * time.Second
	writeTimeout = 5 * time.Second // to store the mail server's answer
	addressRest  = 24 * time.Hour  // between two welcome mails to one address
	forgetBatch  = 1000
)

// Config configures [New].
type Config struct {
	Server      Server
	From        string                     // see [CheckSender]
	Secret      []byte                     // HMAC key for addresses
	MaxAttempts int                        // attempts that the server refused for now; outages do not count
	MaxAge      time.Duration              // after this the mail is dropped, for any reason
	Observe     func(result string, n int) // "sent", "dropped", "delayed"
	Log         *slog.Logger
}

// Mailer queues and sends welcome mails. Many replicas may run one each.
type Mailer struct {
	cfg  Config
	from sender
	pool *pgxpool.Pool

	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	patience timeouts
	letters  service.Failures // why letters were refused
	quiet    time.Time        // no conversation with the server before this
	refusals int              // consecutive refusals of the server to talk to us
}

// New returns a mailer. It fails if the sender is malformed. It does not connect yet.
func New(cfg Config, pool *pgxpool.Pool) (*Mailer, error) {
	from, err := parseSender(cfg.From)
	if err != nil {
		return nil, err
	}
	return &Mailer{
		cfg: cfg, from: from, pool: pool,
		dial: (&net.Dialer{Timeout: dialTimeout}).DialContext, patience: patience,
		letters: service.Failures{Task: "deliver a welcome mail", Message: "not delivered", Log: cfg.Log},
	}, nil
}

// Queue handles a batch of member.signed-up events: it inserts one row for each member who has an address. It
// is safe for concurrent use.
func (m *Mailer) Queue(ctx context.Context, batch []service.Message) error {
	var members []string
	for _, message := range batch {
		var data contract.SignedUp
		e, err := contract.Receive(message.Subject, message.Headers, message.Body)
		if err == nil {
			err = e.DataTo(&data)
		}
		id, bad := uuid.FromString(data.MemberID)
		if err := errors.Join(err, bad); err != nil {
			m.cfg.Log.Warn("malformed event skipped", "error", err)
			continue
		}
		members = append(members, id.String())
	}
	// The sub-select hides the ids from the planner, so that it plans only once: planning takes longer than the
	// work.
	_, err := m.pool.Exec(ctx, `-- name: queueMails
INSERT INTO mail (member_id, kind)
SELECT id, 'welcome' FROM member WHERE id = ANY ((SELECT $1::text[])::uuid[]) AND email IS NOT NULL
ON CONFLICT DO NOTHING`, members)
	return err
}

// Work sends one batch of the mails that are due. It is a step for a loop that runs it once at a time. An error
// means that the mail server cannot be used: it is unreachable, or refuses to talk to this service. Such errors
// do not count as attempts of a letter.
func (m *Mailer) Work(ctx context.Context) (more bool, err error) {
	if time.Now().Before(m.quiet) {
		return false, service.ErrIdle
	}
	claimed, err := m.claim(ctx)
	if err != nil {
		return false, err
	}
	var due []letter
	for _, l := range claimed {
		if l.Expired || l.Copies >= maxCopies {
			err = errors.Join(err, m.settle(ctx, l, settlement{state: "dropped"}))
		} else {
			due = append(due, l)
		}
	}
	if err != nil {
		return false, err
	}
	if len(due) == 0 {
		return len(claimed) == batchSize, service.ErrIdle
	}
	s, refused := m.connect(ctx)
	if refused != nil {
		return false, m.away(ctx, due, refused)
	}
	defer s.close()
	for i, l := range due {
		if ctx.Err() != nil {
			return false, errors.Join(m.release(ctx, due[i:], ""), ctx.Err())
		}
		answer, err := m.send(ctx, s, l)
		switch {
		case err != nil:
			return false, err
		case answer == nil || !answer.ends():
			m.refusals = 0
		case i > 0 && answer.outcome() == serverAway: // many servers end a conversation after some letters
			return true, m.release(ctx, due[i+1:], answer.Error())
		default: // this letter may be the cause: it waits, the others do not
			return false, m.away(ctx, due[i+1:], answer)
		}
	}
	return len(claimed) == batchSize, nil
}

// letter is a claimed row of mail. Until is the end of the claim; no other claim has the same.
type letter struct {
	MemberID string
	Attempts int
	Copies   int
	Until    time.Time
	Email    *string
	Expired  bool
}

func (m *Mailer) claim(ctx context.Context) ([]letter, error) {
	rows, err := m.pool.Query(ctx, `-- name: claimMails
WITH due AS MATERIALIZED (
    SELECT member_id, kind FROM mail WHERE state = 'queued' AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE mail l SET next_attempt_at = now() + make_interval(secs => $1)
FROM due JOIN member m ON m.id = due.member_id WHERE l.member_id = due.member_id AND l.kind = due.kind
RETURNING l.member_id, l.attempts, l.copies, l.next_attempt_at AS until, m.email,
          l.created_at < now() - make_interval(secs => $3) AS expired`,
		claimLease.Seconds(), batchSize, m.cfg.MaxAge.Seconds())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[letter])
}

// send sends one letter and stores the result. The answer is nil if the letter was sent, or must not be sent.
func (m *Mailer) send(ctx context.Context, s *session, l letter) (*failure, error) {
	var to email.Address
	err := email.ErrInvalid
	if l.Email != nil {
		to, err = email.Parse(*l.Email)
	}
	if err != nil { // the member has left, or an older version accepted the address
		return nil, m.settle(ctx, l, settlement{state: "dropped", reason: "the address cannot be used"})
	}
	opened, reason, err := m.open(ctx, l, to)
	switch {
	case err != nil:
		return nil, err
	case reason != "":
		return nil, m.settle(ctx, l, settlement{state: "dropped", reason: reason})
	case !opened:
		return nil, nil // the claim has expired, and another replica has the letter
	}
	answer := s.deliver(m.from, to, l.MemberID)
	if answer != nil && answer.outcome() != serverAway {
		m.letters.Add(ctx, answer)
	}
	return answer, m.settle(ctx, l, m.judge(l, answer))
}

// open is the last check before a letter is sent: its member has not left, and the address got no other welcome
// mail within a day. From here on the letter counts as a copy and is not due again for letterLease, even if
// this process crashes.
func (m *Mailer) open(ctx context.Context, l letter, to email.Address) (opened bool, reason string, err error) {
	mac := hmac.New(sha256.New, m.cfg.Secret)
	mac.Write([]byte("mailbox\x00" + to.Mailbox())) // the prefix sets it apart from other HMACs with this secret
	var stays, first bool
	err = m.pool.QueryRow(ctx, `-- name: openMail
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
		l.MemberID, *l.Email, mac.Sum(nil), addressRest.Seconds(), letterLease.Seconds(), l.Until).
		Scan(&stays, &first, &opened)
	switch {
	case err != nil:
	case !stays:
		reason = "the member has left"
	case !first:
		reason = "the address had a welcome mail within a day"
	}
	return opened, reason, err
}

// settlement is what happens to a letter next. attempts and copies are added to the row: copies is -1 unless
// the text may have arrived, because open has already counted the copy.
type settlement struct {
	state    string
	attempts int
	copies   int
	wait     time.Duration
	reason   string
}

// judge decides about a letter by the server's answer.
func (m *Mailer) judge(l letter, answer *failure) settlement {
	if answer == nil {
		return settlement{state: "sent"}
	}
	next := settlement{state: "queued", attempts: 1, copies: -1, reason: answer.Error()}
	switch answer.outcome() {
	case refusedForGood:
		next.state = "dropped"
	case serverAway:
		next.attempts, next.wait = 0, spread(brokenWait)
	case putOff:
		next.wait = m.retryAfter(l.Attempts + 1)
	case inDoubt:
		next.copies, next.wait = 0, max(doubtWait, m.retryAfter(l.Attempts+1))
	}
	if l.Attempts+next.attempts >= m.cfg.MaxAttempts || l.Copies+1+next.copies >= maxCopies {
		next.state = "dropped"
	}
	return next
}

// settle stores what happens to a letter next, even while this process is being stopped.
func (m *Mailer) settle(ctx context.Context, l letter, s settlement) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	tag, err := m.pool.Exec(ctx, `-- name: settleMail
UPDATE mail SET state = $2, attempts = attempts + $3, copies = copies + $4,
       next_attempt_at = now() + make_interval(secs => $5),
       error = CASE WHEN $6 = '' AND $2 = 'dropped' THEN error ELSE $6 END,
       finished_at = CASE WHEN $2 <> 'queued' THEN now() END
WHERE member_id = $1 AND kind = 'welcome' AND state = 'queued'`,
		l.MemberID, s.state, s.attempts, s.copies, s.wait.Seconds(), s.reason)
	result := s.state
	if result == "queued" {
		result = "delayed"
	}
	m.cfg.Observe(result, int(tag.RowsAffected()))
	return err
}

// away releases letters because the server cannot be used, and returns the reason.
func (m *Mailer) away(ctx context.Context, letters []letter, why *failure) error {
	m.keepQuiet(why)
	m.cfg.Observe("delayed", len(letters))
	return errors.Join(fmt.Errorf("mail server %s: %w", m.cfg.Server.Addr, why), m.release(ctx, letters, why.Error()))
}

// release ends the claims of letters that were not opened.
func (m *Mailer) release(ctx context.Context, letters []letter, reason string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	members, ends := make([]string, len(letters)), make([]time.Time, len(letters))
	for i, l := range letters {
		members[i], ends[i] = l.MemberID, l.Until
	}
	_, err := m.pool.Exec(ctx, `-- name: releaseMails
UPDATE mail SET next_attempt_at = now(), error = CASE WHEN $3 = '' THEN error ELSE $3 END
FROM unnest($1::text[]::uuid[], $2::timestamptz[]) AS claim (member, until)
WHERE member_id = member AND kind = 'welcome' AND state = 'queued' AND next_attempt_at = until`, members, ends, reason)
	return err
}

// Forget deletes a batch of addresses that may get another welcome mail. It is a step for a loop.
func (m *Mailer) Forget(ctx context.Context) (more bool, err error) {
	tag, err := m.pool.Exec(ctx, `-- name: forgetMailedAddresses
DELETE FROM mailed_address WHERE mac IN (
    SELECT mac FROM mailed_address WHERE used_at <= now() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)`,
		addressRest.Seconds(), forgetBatch)
	return tag.RowsAffected() == forgetBatch, err
}
