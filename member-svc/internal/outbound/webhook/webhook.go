// Package webhook posts the notices of stuck signups, signup.stuck events, to one URL.
//
//	saga needs attention ──► Store.NotifyStuck ──► outbox ──► stream ──► Queue ──► webhook ──► Work ──► POST
//	      (state)                (one tx)                  (durable consumer) (table)  (own loop)
//
// Nothing here can delay a signup: notices read committed rows, and a receiver that hangs only holds up the
// loop of Work. A notice is delivered at least once within its attempts and its age, always with the same id.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

const (
	atOnce      = 8 // posts at a time: one that hangs does not block the other seven
	postTimeout = 10 * time.Second
	lease       = time.Minute // longer than a post, so that no other replica sends it meanwhile
	backoffBase = time.Second
	backoffCap  = time.Hour
	forgetBatch = 1000
	answerLimit = 4 << 10 // bytes read of an answer's body, which is ignored
)

// Results of posts, for [Config.Observe].
const (
	Sent    = "sent"
	Delayed = "delayed" // it will be tried again
	Dropped = "dropped" // its attempts are used up, or the receiver answered 410
	Expired = "expired" // too old to be of use
)

// Config configures [New].
type Config struct {
	URL         string // http or https
	Secret      string // see [ParseSecret]
	MaxAttempts int
	MaxAge      time.Duration // of the event
	Observe     func(result string, n int)
	Log         *slog.Logger
}

// Webhook posts notices to one receiver in the format of https://www.standardwebhooks.com: webhook-id is the
// event's id, webhook-signature an HMAC-SHA256 over id, time and body. The body is the event in structured
// CloudEvents JSON. Only an answer 2xx counts as delivered; 410 means that the receiver wants no more. A
// Webhook is safe for concurrent use, in many replicas.
type Webhook struct {
	cfg    Config
	key    []byte
	store  *store.Store
	client *http.Client

	failures service.Failures
}

// New returns a webhook. It fails if the secret or the URL is malformed. It does not connect yet.
func New(cfg Config, st *store.Store) (*Webhook, error) {
	key, err := ParseSecret(cfg.Secret)
	if err != nil {
		return nil, err
	}
	if err := CheckURL(cfg.URL); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: postTimeout}).DialContext, TLSHandshakeTimeout: postTimeout,
		ForceAttemptHTTP2: true,
		MaxConnsPerHost:   atOnce, MaxIdleConnsPerHost: atOnce, IdleConnTimeout: time.Minute,
		Proxy: http.ProxyFromEnvironment,
	}
	client := &http.Client{
		Transport: transport, Timeout: postTimeout,
		// A redirected POST would become a GET, or send the body to another receiver.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Webhook{
		cfg: cfg, key: key, store: st, client: client, failures: service.Failures{Task: "post webhooks", Log: cfg.Log},
	}, nil
}

// ParseSecret decodes a signing secret: "whsec_" followed by 24 to 64 bytes in base64.
func ParseSecret(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("the secret is not whsec_ and 24 to 64 bytes in base64")
	}
	return key, nil
}

// CheckURL returns an error if no post can be sent to u. The error does not repeat u, which may hold a secret.
func CheckURL(u string) error {
	parsed, err := url.Parse(u)
	if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
		return errors.New("the URL is not http:// or https:// with a host")
	}
	return nil
}

// Queue handles a batch of signup.stuck events: it inserts one row for each event that is not too old.
func (w *Webhook) Queue(ctx context.Context, batch []service.Message) error {
	var ids, bodies []string
	var times []time.Time
	for _, m := range batch {
		e, err := contract.Receive(m.Subject, m.Headers, m.Body)
		if err == nil {
			err = e.DataTo(&contract.Stuck{})
		}
		id, bad := uuid.FromString(e.ID)
		body, undecodable := json.Marshal(e)
		if err := errors.Join(err, bad, undecodable); err != nil {
			w.cfg.Log.Warn("malformed event skipped", "error", err)
			continue
		}
		ids, bodies, times = append(ids, id.String()), append(bodies, string(body)), append(times, e.Time)
	}
	expired, err := w.store.QueueNotices(ctx, ids, bodies, times, w.cfg.MaxAge)
	w.observe(Expired, expired)
	return err
}

// Work posts a few of the notices that are due. It is a step for a loop.
func (w *Webhook) Work(ctx context.Context) (more bool, err error) {
	expired, err := w.store.ForgetNotices(ctx, w.cfg.MaxAge, forgetBatch)
	if err != nil {
		return false, err
	}
	w.observe(Expired, expired)
	due, err := w.store.ClaimNotices(ctx, lease, atOnce)
	if err != nil || len(due) == 0 {
		return false, err
	}
	errs := make([]error, len(due))
	var wg sync.WaitGroup
	for i, n := range due {
		wg.Go(func() {
			err := w.post(ctx, n)
			// Store the receiver's answer even if this process is being stopped.
			errs[i] = w.finish(context.WithoutCancel(ctx), n, err)
		})
	}
	wg.Wait()
	return len(due) == atOnce, errors.Join(errs...)
}

// errGone means that the receiver wants no more notices.
var errGone = errors.New("answered 410")

// post returns nil if the receiver accepted the notice. Its errors do not contain the URL.
func (w *Webhook) post(ctx context.Context, n store.Notice) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, strings.NewReader(n.Body))
	if err != nil {
		return errors.New("the URL cannot be requested")
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", contract.StructuredContentType)
	req.Header.Set("User-Agent", "signup-saga")
	req.Header.Set("Webhook-Id", n.EventID)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(w.sign(n, at)))
	resp, err := w.client.Do(req)
	if err != nil {
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			return errors.New("no answer in time")
		}
		return fmt.Errorf("the receiver cannot be reached: %w", withoutURL(err))
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, answerLimit) // so that the connection can be reused
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusGone:
		return errGone
	default:
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
}

// withoutURL returns the cause of a failed request, without the surrounding error: that one contains the URL,
// which may hold a secret.
func withoutURL(err error) error {
	var around *url.Error
	for errors.As(err, &around) {
		err = around.Err
	}
	return err
}

func (w *Webhook) sign(n store.Notice, at string) []byte {
	mac := hmac.New(sha256.New, w.key)
	mac.Write(bytes.Join([][]byte{[]byte(n.EventID), []byte(at), []byte(n.Body)}, []byte(".")))
	return mac.Sum(nil)
}

// finish stores the result of a post.
func (w *Webhook) finish(ctx context.Context, n store.Notice, failure error) error {
	result, state, reason := Sent, Sent, ""
	if failure != nil {
		result, state, reason = Delayed, "queued", failure.Error()
		w.failures.Add(ctx, failure)
	} else {
		w.failures.Recovered()
	}
	if errors.Is(failure, errGone) || (failure != nil && n.Attempts >= w.cfg.MaxAttempts) {
		result, state = Dropped, Dropped
		w.cfg.Log.Warn("webhook dropped", "event_id", n.EventID, "attempts", n.Attempts, "error", reason)
	}
	wait := service.Backoff(n.Attempts, backoffBase, backoffCap)
	if err := w.store.FinishNotice(ctx, n.EventID, state, wait, reason); err != nil {
		return err
	}
	w.observe(result, 1)
	return nil
}

func (w *Webhook) observe(result string, n int) {
	if n > 0 {
		w.cfg.Observe(result, n)
	}
}
