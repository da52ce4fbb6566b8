// Package welcome sends the welcome mail: pleasant, not promised. The consumer only
// makes a row; a worker sends what is due. Attempts and age are bounded, and nothing
// here can delay a signup. A mail is sent twice only if the process dies between the
// mail server's yes and the commit; its Message-ID is the same then. The address is
// read when the mail is sent: whoever has left by then gets none.
package welcome

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/wneessen/go-mail"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/service"
)

const (
	batchSize   = 20
	sendTimeout = 10 * time.Second // for each command of a conversation
	lease       = 5 * time.Minute  // longer than a batch: nobody else sends it meanwhile
	backoffBase = 500 * time.Millisecond
	backoffCap  = 30 * time.Second
	outageCap   = 5 * time.Second // the server is away: come back soon after it does
)

// Config configures [New].
type Config struct {
	Addr        string // host:port of the mail server
	From        string
	MaxAttempts int                        // that the server refused for now; outages do not count
	MaxAge      time.Duration              // then the mail is dropped, whatever the reason
	Observe     func(result string, n int) // "sent", "dropped", "delayed"
	Log         *slog.Logger
}

// Mailer queues and sends welcome mails. Safe for concurrent use, in many replicas.
type Mailer struct {
	cfg    Config
	pool   *pgxpool.Pool
	client *mail.Client
}

// New returns a mailer. It fails for a malformed address; it connects to nothing.
func New(cfg Config, pool *pgxpool.Pool) (*Mailer, error) {
	host, portText, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("mail server: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("mail server: %w", err)
	}
	client, err := mail.NewClient(host, mail.WithPort(port), mail.WithTLSPolicy(mail.TLSOpportunistic), mail.WithTimeout(sendTimeout), mail.WithHELO("localhost"))
	if err != nil {
		return nil, fmt.Errorf("mail client: %w", err)
	}
	return &Mailer{cfg, pool, client}, nil
}

// Queue handles a batch of member.signed-up events: a row for each member who has an
// address, once.
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
	// The sub-select hides the ids from the planner, so that it plans once: it takes longer than the work.
	_, err := m.pool.Exec(ctx, `-- name: queueMails
INSERT INTO mail (member_id, kind) SELECT id, 'welcome' FROM member WHERE id = ANY ((SELECT $1::text[])::uuid[]) AND email IS NOT NULL
ON CONFLICT DO NOTHING`, members)
	return err
}

// Work sends one batch of what is due; it is a step for a loop. An error means that
// the mail server cannot be reached.
func (m *Mailer) Work(ctx context.Context) (more bool, err error) {
	due, err := m.claim(ctx)
	if err != nil || len(due) == 0 {
		return false, err
	}
	dialCtx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	away := m.client.DialWithContext(dialCtx)
	if away == nil {
		defer func() { _ = m.client.Close() }()
	}
	// What the mail server said is written down even when we are told to stop.
	write := context.WithoutCancel(ctx)
	for _, l := range due {
		if cause := cmp.Or(away, ctx.Err()); cause != nil {
			err = m.postpone(write, l, 0, cause)
		} else {
			err = m.send(write, l)
		}
		if err != nil {
			return false, err
		}
	}
	if away != nil {
		return false, fmt.Errorf("mail server: %w", away)
	}
	return len(due) == batchSize, nil
}

// letter is a claimed row of mail.
type letter struct {
	MemberID, Kind string
	Attempts       int
	Expired        bool
}

func (m *Mailer) claim(ctx context.Context) ([]letter, error) {
	rows, err := m.pool.Query(ctx, `-- name: claimMails
UPDATE mail SET next_attempt_at = now() + make_interval(secs => $1)
WHERE (member_id, kind) IN (
          SELECT member_id, kind FROM mail WHERE state = 'queued' AND next_attempt_at <= now()
          ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING member_id, kind, attempts, created_at < now() - make_interval(secs => $3) AS expired`, lease.Seconds(), batchSize, m.cfg.MaxAge.Seconds())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[letter])
}

func (m *Mailer) send(ctx context.Context, l letter) error {
	if l.Expired {
		return m.finish(ctx, l, "dropped", nil)
	}
	var username, email string
	err := m.pool.QueryRow(ctx, "-- name: readAddress\nSELECT username, email FROM member WHERE id = $1 AND email IS NOT NULL", l.MemberID).Scan(&username, &email)
	if errors.Is(err, pgx.ErrNoRows) {
		return m.finish(ctx, l, "dropped", nil)
	}
	if err != nil {
		return err
	}
	msg := mail.NewMsg()
	msg.SetMessageIDWithValue(l.Kind + "." + l.MemberID + "@signup-saga")
	msg.SetDate()
	msg.Subject("Welcome")
	msg.SetBodyString(mail.TypeTextPlain, "Hello "+username+",\n\nwelcome! Your storage is being set up; it will be there when you sign in.\n")
	if err := errors.Join(msg.From(m.cfg.From), msg.To(email)); err != nil {
		return m.finish(ctx, l, "dropped", err)
	}
	err = m.client.Send(msg)
	var refused *mail.SendError
	switch {
	case err == nil:
		return m.finish(ctx, l, "sent", nil)
	case !errors.As(err, &refused) || refused.ErrorCode() == 0:
		return m.postpone(ctx, l, 0, err) // the conversation broke off
	case refused.ErrorCode() >= 500:
		return m.finish(ctx, l, "dropped", err)
	default:
		return m.postpone(ctx, l, 1, err)
	}
}

// postpone puts a letter back, or drops it when its attempts or its age are used up.
// An outage is no attempt of the letter's.
func (m *Mailer) postpone(ctx context.Context, l letter, attempt int, cause error) error {
	if l.Expired || l.Attempts+attempt >= m.cfg.MaxAttempts {
		return m.finish(ctx, l, "dropped", cause)
	}
	wait := service.Backoff(l.Attempts+attempt, backoffBase, backoffCap)
	if attempt == 0 {
		wait = service.Backoff(10, backoffBase, outageCap)
	}
	_, err := m.pool.Exec(ctx, `-- name: postponeMail
UPDATE mail SET next_attempt_at = now() + make_interval(secs => $3), attempts = attempts + $4, error = $5
WHERE member_id = $1 AND kind = $2 AND state = 'queued'`, l.MemberID, l.Kind, wait.Seconds(), attempt, describe(cause))
	m.cfg.Observe("delayed", 1)
	return err
}

func (m *Mailer) finish(ctx context.Context, l letter, state string, cause error) error {
	tag, err := m.pool.Exec(ctx, `-- name: finishMail
UPDATE mail SET state = $3, finished_at = now(), error = $4 WHERE member_id = $1 AND kind = $2 AND state = 'queued'`,
		l.MemberID, l.Kind, state, describe(cause))
	m.cfg.Observe(state, int(tag.RowsAffected()))
	return err
}

// describe says what failed without the address, which servers like to repeat.
func describe(err error) string {
	var refused *mail.SendError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refused):
		return fmt.Sprintf("refused with code %d", refused.ErrorCode())
	default:
		return "the mail server cannot be reached"
	}
}
