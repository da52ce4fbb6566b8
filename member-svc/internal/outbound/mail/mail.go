// Package mail sends the welcome mail, which is non-essential. The consumer only inserts a row; a worker
// sends the mails that are due. Attempts, age and copies are bounded, and nothing here can delay a signup.
// docs/mail.md describes how the worker treats mail servers, and why. The address is read when the mail is
// sent, so a member who has left by then gets none.
package mail

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

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/email"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

const (
	batchSize    = 20
	claimLease   = 5 * time.Minute  // of a claimed batch that waits for its turn
	mailLease    = 30 * time.Minute // longer than all timeouts of one mail, so that no replica sends it twice
	maxCopies    = 3                // of a mail whose arrival is in doubt
	dialTimeout  = 30 * time.Second
	writeTimeout = 5 * time.Second // to store the mail server's answer
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
	cfg   Config
	from  sender
	store *store.Store

	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	patience timeouts
	refused  service.Failures // why mails were refused
	quiet    time.Time        // no conversation with the server before this
	refusals int              // consecutive refusals of the server to talk to us
}

// New returns a mailer. It fails if the sender is malformed. It does not connect yet.
func New(cfg Config, st *store.Store) (*Mailer, error) {
	from, err := parseSender(cfg.From)
	if err != nil {
		return nil, err
	}
	return &Mailer{
		cfg: cfg, from: from, store: st,
		dial: (&net.Dialer{Timeout: dialTimeout}).DialContext, patience: patience,
		refused: service.Failures{Task: "deliver a welcome mail", Message: "not delivered", Log: cfg.Log},
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
	return m.store.QueueMails(ctx, members)
}

// Work sends one batch of the mails that are due. It is a step for a loop that runs it once at a time. An error
// means that the mail server cannot be used: it is unreachable, or refuses to talk to this service. Such errors
// do not count as attempts of a mail.
func (m *Mailer) Work(ctx context.Context) (more bool, err error) {
	if time.Now().Before(m.quiet) {
		return false, service.ErrIdle
	}
	claimed, err := m.store.ClaimMails(ctx, claimLease, m.cfg.MaxAge, batchSize)
	if err != nil {
		return false, err
	}
	var due []store.Mail
	for _, l := range claimed {
		if l.Expired || l.Copies >= maxCopies {
			err = errors.Join(err, m.finish(ctx, l, store.MailResult{State: "dropped"}))
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
		case i > 0 && answer.outcome() == serverAway: // many servers end a conversation after some mails
			return true, m.release(ctx, due[i+1:], answer.Error())
		default: // this mail may be the cause: it waits, the others do not
			return false, m.away(ctx, due[i+1:], answer)
		}
	}
	return len(claimed) == batchSize, nil
}

// send sends one mail and stores the result. The answer is nil if the mail was sent, or must not be sent.
func (m *Mailer) send(ctx context.Context, s *session, l store.Mail) (*failure, error) {
	var to email.Address
	err := email.ErrInvalid
	if l.Email != nil {
		to, err = email.Parse(*l.Email)
	}
	if err != nil { // the member has left, or an older version accepted the address
		return nil, m.finish(ctx, l, store.MailResult{State: "dropped", Reason: "the address cannot be used"})
	}
	started, reason, err := m.store.StartMail(ctx, l, m.addressMAC(to), mailLease)
	switch {
	case err != nil:
		return nil, err
	case reason != "":
		return nil, m.finish(ctx, l, store.MailResult{State: "dropped", Reason: reason})
	case !started:
		return nil, nil // the claim has expired, and another replica has the mail
	}
	answer := s.deliver(m.from, to, l.MemberID)
	if answer != nil && answer.outcome() != serverAway {
		m.refused.Add(ctx, answer)
	}
	return answer, m.finish(ctx, l, m.judge(l, answer))
}

// addressMAC identifies an address in the database without revealing it.
func (m *Mailer) addressMAC(to email.Address) []byte {
	mac := hmac.New(sha256.New, m.cfg.Secret)
	mac.Write([]byte("mailbox\x00" + to.Mailbox())) // the prefix sets it apart from other HMACs with this secret
	return mac.Sum(nil)
}

// judge decides about a mail by the server's answer.
func (m *Mailer) judge(l store.Mail, answer *failure) store.MailResult {
	if answer == nil {
		return store.MailResult{State: "sent"}
	}
	next := store.MailResult{State: "queued", Attempts: 1, Copies: -1, Reason: answer.Error()}
	switch answer.outcome() {
	case refusedForGood:
		next.State = "dropped"
	case serverAway:
		next.Attempts, next.Wait = 0, spread(brokenWait)
	case putOff:
		next.Wait = m.retryAfter(l.Attempts + 1)
	case inDoubt:
		next.Copies, next.Wait = 0, max(doubtWait, m.retryAfter(l.Attempts+1))
	}
	if l.Attempts+next.Attempts >= m.cfg.MaxAttempts || l.Copies+1+next.Copies >= maxCopies {
		next.State = "dropped"
	}
	return next
}

// finish stores what happens to a mail next, even while this process is being stopped.
func (m *Mailer) finish(ctx context.Context, l store.Mail, next store.MailResult) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	n, err := m.store.FinishMail(ctx, l.MemberID, next)
	result := next.State
	if result == "queued" {
		result = "delayed"
	}
	m.cfg.Observe(result, n)
	return err
}

// away releases mails because the server cannot be used, and returns the reason.
func (m *Mailer) away(ctx context.Context, mails []store.Mail, why *failure) error {
	m.keepQuiet(why)
	m.cfg.Observe("delayed", len(mails))
	return errors.Join(fmt.Errorf("mail server %s: %w", m.cfg.Server.Addr, why), m.release(ctx, mails, why.Error()))
}

// release ends the claims of mails that were not started, even while this process is being stopped.
func (m *Mailer) release(ctx context.Context, mails []store.Mail, reason string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return m.store.ReleaseMails(ctx, mails, reason)
}
