package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a relay may wait for. The error passed to [Hooks.Waiting] matches exactly one of these, by [errors.Is].
var (
	ErrDatabase = errors.New("database") // it is unreachable, or refuses a statement
	ErrLane     = errors.New("lane")     // it belongs to another stream or source, or its tables are unfit
	ErrNATS     = errors.New("nats")     // it is unreachable, or does not answer
	ErrStream   = errors.New("stream")   // it is missing, full, or has settings that an outbox cannot use
)

// Reasons returns all of them.
func Reasons() []error { return []error{ErrDatabase, ErrLane, ErrNATS, ErrStream} }

// waitError says what a relay waits for.
type waitError struct {
	reason error
	err    error
}

func (w *waitError) Error() string   { return w.err.Error() }
func (w *waitError) Unwrap() []error { return []error{w.reason, w.err} }

// because returns err with a reason to wait, unless it already has one.
func because(reason, err error) error {
	var known *waitError
	if errors.As(err, &known) {
		return err
	}
	return &waitError{reason, err}
}

// ofBroker returns an error of NATS with the reason to wait that it stands for.
func (r *Relay) ofBroker(err error) error {
	var known *waitError
	var api *jetstream.APIError
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &api) && !jetStreamOff(err):
		return &waitError{ErrStream, err}
	case !r.NATS.IsConnected():
		return errDisconnected
	}
	return &waitError{ErrNATS, Explain(err)}
}

var errDisconnected = &waitError{ErrNATS, Explain(nats.ErrDisconnected)}

func jetStreamOff(err error) bool {
	return errors.Is(err, jetstream.ErrJetStreamNotEnabled) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount)
}

// explained is an error whose own text would mislead.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.err }

// Explain rewords an error of NATS to say what to do, where the original text does not. The result still matches
// everything that err matches.
func Explain(err error) error {
	switch {
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrConnectionReconnecting):
		return &explained{"NATS is not connected: check that the server runs and can be reached", err}
	case errors.Is(err, nats.ErrNoServers):
		return &explained{"NATS cannot be reached: check its URL, and that the server runs", err}
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired),
		errors.Is(err, nats.ErrAuthRevoked):
		const text = "NATS does not let this user in: check user and password, or certificate: "
		return &explained{text + err.Error(), err}
	case jetStreamOff(err), errors.Is(err, nats.ErrNoResponders):
		return &explained{"JetStream does not answer: enable it on the NATS server and for this account; " +
			"in a cluster, wait until it has a leader", err}
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return &explained{"no stream answers on this subject: create the stream, or enable JetStream on the " +
			"NATS server and for this account", err}
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, jetstream.ErrNoHeartbeat):
		return &explained{err.Error() + ": NATS is overloaded or paused, or this user may not use the subject", err}
	}
	return err
}

// remindEvery is how often the log repeats why the relay waits.
const remindEvery = time.Minute

// waiting is a period in which the relay cannot continue.
type waiting struct {
	reason      error
	since, told time.Time
	failures    int
}

// failed records a failure. The first failure for each reason goes to the log and to the hook; the log repeats
// it every minute.
func (w *waiting) failed(r *Relay, err error) {
	err = because(ErrDatabase, err)
	var now *waitError
	errors.As(err, &now)
	w.failures++
	if w.since.IsZero() {
		w.since = time.Now()
	}
	if errors.Is(now.reason, w.reason) && time.Since(w.told) < remindEvery {
		r.Log.Debug("outbox: still waiting", "reason", now.reason, "err", err)
		return
	}
	r.Log.Warn("outbox: waiting", "reason", now.reason, "since", w.since, "err", err)
	w.told = time.Now()
	if !errors.Is(now.reason, w.reason) {
		w.reason = now.reason
		call2(r.Hooks.Waiting, err, w.since)
	}
}

// over records that the relay continues, or ends.
func (w *waiting) over(r *Relay, what string) {
	if w.since.IsZero() {
		return
	}
	r.Log.Info(what, "after_failures", w.failures, "waited", time.Since(w.since).Round(time.Millisecond))
	*w = waiting{}
	call2(r.Hooks.Waiting, nil, time.Time{})
}

// claim records this relay's stream and source as the owner of the lane, or checks that they are. A lane of another
// owner must not be relayed: its events would be published under a wrong name.
func (c checkpoints) claim(ctx context.Context, stream, source string) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	var ofStream, ofSource string
	err := c.pool.QueryRow(ctx, `-- name: claimLane
WITH claimed AS (
    INSERT INTO outbox_lane (lane, stream, source) VALUES ($1, $2, $3)
    ON CONFLICT (lane) DO NOTHING RETURNING stream, source)
SELECT stream, source FROM claimed UNION ALL SELECT stream, source FROM outbox_lane WHERE lane = $1`,
		c.lane, stream, source).Scan(&ofStream, &ofSource)
	var answer *pgconn.PgError
	switch {
	case errors.As(err, &answer) && answer.Code == "23505": // unique_violation
		return waitFor(ErrLane, "another lane of this database has stream %s: give lane %s a stream of its own",
			stream, c.lane)
	case errors.As(err, &answer) && answer.Code == "42P01": // undefined_table
		return waitFor(ErrLane, "there is no table outbox_lane: apply the migrations of the outbox")
	case err != nil:
		return fmt.Errorf("claim lane %s: %w", c.lane, err)
	case ofStream != stream || ofSource != source:
		return waitFor(ErrLane, "lane %s belongs to stream %s and source %s, not to %s and %s: give this "+
			"service a lane of its own, or move the lane on purpose by an update of its row in outbox_lane",
			c.lane, ofStream, ofSource, stream, source)
	}
	return nil
}

func waitFor(reason error, format string, args ...any) error {
	return &waitError{reason, fmt.Errorf(format, args...)}
}
