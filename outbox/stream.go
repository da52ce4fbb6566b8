package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// headerRow carries the event's id in its table, by which a relay recognises its own events in the stream. It is
// a CloudEvents extension attribute.
const headerRow = "ce-outboxid"

// StreamConfig returns the settings that an outbox stream needs: atomic batches, direct reads, no deletion on
// request, and, when it is full, new messages refused rather than old ones dropped. Messages expire after 7
// days.
func StreamConfig(name string, subjects []string, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               name,
		Subjects:           subjects,
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxAge:             7 * 24 * time.Hour,
		Replicas:           replicas,
		DenyDelete:         true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
	}
}

// stream is the relay's side of one JetStream stream.
type stream struct {
	js     jetstream.JetStream
	config jetstream.StreamConfig
	source string
	prefix string

	external bool // something else creates it

	subjects   []string // what the stream accepts, as of the last look
	maxMsgSize int32    // the stream's own limit per message; 0 or below: none

	lastType, lastSubject string // see subject
	spare                 []*nats.Msg
}

// look returns the stream's identity and last sequence, if it can carry the lane. It creates the stream if that
// is missing and not external.
func (s *stream) look(ctx context.Context) (id time.Time, last uint64, err error) {
	if v := s.js.Conn().ConnectedServerVersion(); olderThan(v, 2, 12) {
		return id, 0, waitFor(ErrNATS, "the NATS server has version %s: atomic batches need 2.12 or later", v)
	}
	st, err := s.js.Stream(ctx, s.config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && !s.external {
		st, err = s.js.CreateStream(ctx, s.config)
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return id, 0, fmt.Errorf("stream %s does not exist: create it, this relay may not: %w", s.config.Name, err)
	case err != nil:
		return id, 0, fmt.Errorf("stream %s: %w", s.config.Name, err)
	}
	info := st.CachedInfo()
	problems := defects(info.Config)
	if !takesPrefix(info.Config.Subjects, s.prefix) {
		problems = append(problems, fmt.Sprintf("it accepts no subject that begins with %s: add one to its subjects %q",
			s.prefix, info.Config.Subjects))
	}
	if len(problems) > 0 {
		return id, 0, waitFor(ErrStream, "stream %s cannot carry the lane: %s", s.config.Name,
			strings.Join(problems, "; "))
	}
	s.subjects, s.maxMsgSize, s.lastSubject = info.Config.Subjects, info.Config.MaxMsgSize, ""
	return info.Created.UTC().Truncate(time.Microsecond), info.State.LastSeq, nil
}

// olderThan reports whether a version is known and below major.minor.
func olderThan(version string, major, minor int) bool {
	var have [2]int
	if _, err := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &have[0], &have[1]); err != nil {
		return false
	}
	return slices.Compare(have[:], []int{major, minor}) < 0
}

// few is the largest number of messages that are published one by one: an atomic batch costs the server as much
// as a dozen plain messages before its first message.
const few = 10

// publish stores msgs directly behind sequence expected, as one atomic batch, or one by one if they are few. One by
// one, each waits for the acknowledgement of the one before it: with two in flight, a rival's message could let the
// second be stored behind it. After an error, an unknown number of msgs is stored, except that none is if the batch
// or the first message was refused.
func (s *stream) publish(ctx context.Context, msgs []*nats.Msg, expected uint64) (last uint64, err error) {
	if len(msgs) > few {
		ack, err := jetstreamext.PublishMsgBatch(ctx, s.js, s.after(expected, msgs),
			jetstreamext.BatchFlowControl{AckFirst: false})
		if err != nil {
			return 0, fmt.Errorf("publish %d events to %s: %w", len(msgs), s.config.Name, err)
		}
		return ack.Sequence, nil
	}
	for i := range msgs {
		ack, err := s.js.PublishMsg(ctx, s.after(expected, msgs[i:])[0], jetstream.WithRetryAttempts(0))
		if err != nil {
			return 0, fmt.Errorf("publish event %d of %d to %s: %w", i+1, len(msgs), s.config.Name, err)
		}
		expected = ack.Sequence
	}
	return expected, nil
}

// after makes the first of msgs require that the stream ends at sequence expected.
func (s *stream) after(expected uint64, msgs []*nats.Msg) []*nats.Msg {
	msgs[0].Header.Set(jetstream.ExpectedStreamHeader, s.config.Name)
	msgs[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(expected, 10))
	return msgs
}

// refused reports whether err means that the stream's last sequence was not
// the expected one.
func refused(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// message renders a row as a CloudEvents 1.0 message in binary mode. An error means that the event itself is
// defective and no retry can help.
func (s *stream) message(r row, maxPayload int64) (*nats.Msg, error) {
	subject, err := s.subject(r.Type)
	if err != nil {
		return nil, err
	}
	own := [...]struct{ name, value string }{
		{"content-type", "application/json"},
		{"ce-specversion", "1.0"},
		{"ce-id", r.EventID},
		{"ce-type", r.Type},
		{"ce-source", s.source},
		{"ce-subject", r.Key},
		{"ce-time", r.CreatedAt.UTC().Format(time.RFC3339Nano)},
		{headerRow, strconv.FormatInt(r.ID, 10)},
	}
	const batchHeaders = 512 // room for the headers that a batch adds
	size := len(subject) + len(r.Payload) + batchHeaders
	m := s.blank(len(own) + 4)
	m.Subject, m.Data, m.Reply = subject, r.Payload, ""
	var headers map[string]string
	if string(r.Headers) != "{}" {
		if err := json.Unmarshal(r.Headers, &headers); err != nil {
			return nil, fmt.Errorf("headers: %w", err)
		}
	}
	values := make([]string, len(own))
	for i, h := range own {
		if !legalValue(h.value) {
			return nil, fmt.Errorf("illegal value of %s", h.name)
		}
		values[i] = h.value
		m.Header[h.name] = values[i : i+1 : i+1]
		size += len(h.name) + len(h.value) + 4
	}
	for k, v := range headers {
		if !legalHeader(k) || !legalValue(v) {
			return nil, fmt.Errorf("illegal header %q", k)
		}
		if _, ours := m.Header[k]; ours && k != "content-type" {
			continue
		}
		m.Header[k] = []string{v}
		size += len(k) + len(v) + 4
	}
	if s.maxMsgSize > 0 {
		maxPayload = min(maxPayload, int64(s.maxMsgSize))
	}
	if int64(size) > maxPayload {
		return nil, fmt.Errorf("message of %d bytes is over the broker's limit of %d", size, maxPayload)
	}
	return m, nil
}

// blank returns a message that is no longer needed, or a new one.
func (s *stream) blank(headers int) *nats.Msg {
	n := len(s.spare)
	if n == 0 {
		return &nats.Msg{Header: make(nats.Header, headers)}
	}
	m := s.spare[n-1]
	s.spare = s.spare[:n-1]
	clear(m.Header)
	return m
}

// subject returns the subject of events of a type. It caches the last one, as events of one type often follow
// each other.
func (s *stream) subject(eventType string) (string, error) {
	if eventType != s.lastType || s.lastSubject == "" {
		subject := s.prefix + eventType
		if !slices.ContainsFunc(s.subjects, func(pattern string) bool { return matches(pattern, subject) }) {
			return "", fmt.Errorf("stream %s does not accept subject %q", s.config.Name, subject)
		}
		s.lastType, s.lastSubject = eventType, subject
	}
	return s.lastSubject, nil
}

func legalHeader(name string) bool {
	return name != "" && !strings.HasPrefix(strings.ToLower(name), "nats-") && !strings.ContainsAny(name, ": \t\r\n")
}

func legalValue(v string) bool {
	return strings.IndexByte(v, '\r') < 0 && strings.IndexByte(v, '\n') < 0
}

// matches reports whether a literal subject is covered by a subject pattern.
func matches(pattern, subject string) bool {
	p, patterns, moreP := strings.Cut(pattern, ".")
	s, subjects, moreS := strings.Cut(subject, ".")
	switch {
	case s == "" || strings.ContainsAny(s, " \t\r\n*>"):
		return false
	case p == ">":
		return !moreS || matches(p, subjects)
	case p != "*" && p != s || moreP != moreS:
		return false
	}
	return !moreP || matches(patterns, subjects)
}

// own returns the rows of this outbox among the messages after sequence from up to last, by id, and the sequence
// of the first foreign message, 0 if there is none.
func (s *stream) own(
	ctx context.Context, pool *pgxpool.Pool, lane string, from, last uint64,
) (rows []row, foreign uint64, err error) {
	const page = 500
	for from < last {
		msgs, err := jetstreamext.GetBatch(ctx, s.js, s.config.Name, page, jetstreamext.GetBatchSeq(from+1))
		if err != nil {
			return nil, 0, fmt.Errorf("read stream %s from %d: %w", s.config.Name, from+1, err)
		}
		var ids, known []int64
		var events []string
		var seqs []uint64
		for m, err := range msgs {
			if err != nil {
				return nil, 0, fmt.Errorf("read stream %s after %d: %w", s.config.Name, from, err)
			}
			id, _ := strconv.ParseInt(m.Header.Get(headerRow), 10, 64) // 0 is never an id of ours
			event := m.Header.Get("ce-id")
			if !utf8.ValidString(event) || strings.ContainsRune(event, 0) {
				event = "" // a foreign message: Postgres would refuse the query
			}
			ids, events, seqs = append(ids, id), append(events, event), append(seqs, m.Sequence)
		}
		if len(seqs) == 0 {
			return nil, 0, fmt.Errorf("read stream %s: nothing after %d though it ends at %d", s.config.Name, from,
				last)
		}
		from = seqs[len(seqs)-1]
		var stranger uint64
		if err := pool.QueryRow(ctx, `-- name: knownEvents
SELECT coalesce(array_agg(e.id) FILTER (WHERE e.id IS NOT NULL), '{}'),
    coalesce(min(m.seq) FILTER (WHERE e.id IS NULL), 0)
FROM unnest($1::bigint[], $2::text[], $3::bigint[]) m(id, event_id, seq)
LEFT JOIN `+table("event",
			lane)+` e ON e.id = m.id AND e.event_id::text = m.event_id`, ids, events, seqs).Scan(&known,
			&stranger); err != nil {
			return nil, 0, because(ErrDatabase, fmt.Errorf("look up published events: %w", err))
		}
		for _, id := range known {
			rows = append(rows, row{ID: id})
		}
		foreign = cmp.Or(foreign, stranger)
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.ID, b.ID) })
	return slices.CompactFunc(rows, func(a, b row) bool { return a.ID == b.ID }), foreign, nil
}
