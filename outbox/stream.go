package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// headerRow carries the event's id in its table, by which a relay recognises
// its own events in the stream. It is a CloudEvents extension attribute.
const headerRow = "ce-outboxid"

// StreamConfig returns the settings that an outbox stream needs: atomic
// batches, direct reads, nothing deleted by request, and new messages refused
// rather than old ones dropped when it is full. Messages expire after 7 days.
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

	subjects []string // what the stream takes, as of the last look
}

// look returns the stream's identity and last sequence, creating it if it is missing.
func (s *stream) look(ctx context.Context) (id time.Time, last uint64, err error) {
	st, err := s.js.Stream(ctx, s.config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		st, err = s.js.CreateStream(ctx, s.config)
	}
	if err != nil {
		return id, 0, fmt.Errorf("stream %s: %w", s.config.Name, err)
	}
	info := st.CachedInfo()
	s.subjects = info.Config.Subjects
	return info.Created.UTC().Truncate(time.Microsecond), info.State.LastSeq, nil
}

// publish stores msgs as one atomic batch directly behind sequence expected,
// or not at all. An error that is not a refusal leaves open whether it did.
func (s *stream) publish(ctx context.Context, msgs []*nats.Msg, expected uint64) (last uint64, err error) {
	msgs[0].Header.Set(jetstream.ExpectedStreamHeader, s.config.Name)
	msgs[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(expected, 10))
	ack, err := jetstreamext.PublishMsgBatch(ctx, s.js, msgs, jetstreamext.BatchFlowControl{AckFirst: false})
	if err != nil {
		return 0, fmt.Errorf("publish %d events to %s: %w", len(msgs), s.config.Name, err)
	}
	return ack.Sequence, nil
}

// refused reports whether err means that the stream's last sequence was not
// the expected one, so that nothing was stored.
func refused(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// message renders a row as a CloudEvents 1.0 message in binary mode. The error
// is a defect of the event itself that no retry will heal.
func (s *stream) message(r row, maxPayload int64) (*nats.Msg, error) {
	m := nats.NewMsg(s.prefix + r.Type)
	if !slices.ContainsFunc(s.subjects, func(pattern string) bool { return matches(pattern, m.Subject) }) {
		return nil, fmt.Errorf("stream %s does not take subject %q", s.config.Name, m.Subject)
	}
	var headers map[string]string
	if err := json.Unmarshal(r.Headers, &headers); err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	for k, v := range headers {
		if !legalHeader(k, v) {
			return nil, fmt.Errorf("illegal header %q", k)
		}
		m.Header[k] = []string{v}
	}
	for k, v := range map[string]string{
		"ce-specversion": "1.0",
		"ce-id":          r.EventID,
		"ce-type":        r.Type,
		"ce-source":      s.source,
		"ce-subject":     r.Key,
		"ce-time":        r.CreatedAt.UTC().Format(time.RFC3339Nano),
		headerRow:        strconv.FormatInt(r.ID, 10),
		"content-type":   "application/json",
	} {
		if !legalHeader(k, v) {
			return nil, fmt.Errorf("illegal value of %s", k)
		}
		if _, given := m.Header[k]; !given || k != "content-type" {
			m.Header[k] = []string{v}
		}
	}
	m.Data = r.Payload
	const batchHeaders = 512 // room for what the batch adds
	if size := int64(m.Size()) + batchHeaders; size > maxPayload {
		return nil, fmt.Errorf("message of %d bytes is over the broker's limit of %d", size, maxPayload)
	}
	return m, nil
}

func legalHeader(name, value string) bool {
	return name != "" && !strings.HasPrefix(strings.ToLower(name), "nats-") &&
		!strings.ContainsAny(name, ": \t\r\n") && !strings.ContainsAny(value, "\r\n")
}

// matches reports whether a literal subject is covered by a subject pattern.
func matches(pattern, subject string) bool {
	if strings.ContainsAny(subject, " \t\r\n*>") {
		return false
	}
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	if slices.Contains(s, "") {
		return false
	}
	for i, token := range p {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// own returns the rows of this outbox among the messages after sequence from up
// to last, by id, and the first sequence that is not ours, 0 if there is none.
func (s *stream) own(ctx context.Context, pool *pgxpool.Pool, lane string, from, last uint64) (rows []row, foreign uint64, err error) {
	const page = 500
	for from < last {
		msgs, err := jetstreamext.GetBatch(ctx, s.js, s.config.Name, page, jetstreamext.GetBatchSeq(from+1))
		if err != nil {
			return nil, 0, fmt.Errorf("read stream %s from %d: %w", s.config.Name, from+1, err)
		}
		var ids []int64
		var events []string
		var seqs []uint64
		before := from
		for m, err := range msgs {
			if err != nil {
				return nil, 0, fmt.Errorf("read stream %s after %d: %w", s.config.Name, from, err)
			}
			id, _ := strconv.ParseInt(m.Header.Get(headerRow), 10, 64) // 0 is no id of ours
			ids, events, seqs = append(ids, id), append(events, m.Header.Get("ce-id")), append(seqs, m.Sequence)
			from = m.Sequence
		}
		if from == before {
			return nil, 0, fmt.Errorf("read stream %s: nothing after %d though it ends at %d", s.config.Name, from, last)
		}
		known, err := knownRows(ctx, pool, lane, ids, events)
		if err != nil {
			return nil, 0, err
		}
		for i, ours := range known {
			if ours {
				rows = append(rows, row{ID: ids[i]})
			} else if foreign == 0 {
				foreign = seqs[i]
			}
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return int(a.ID - b.ID) })
	return slices.CompactFunc(rows, func(a, b row) bool { return a.ID == b.ID }), foreign, nil
}

// knownRows reports for each pair of row id and event id whether there is such an event.
func knownRows(ctx context.Context, pool *pgxpool.Pool, lane string, ids []int64, events []string) ([]bool, error) {
	rows, err := pool.Query(ctx, `-- name: knownEvents
SELECT e.id IS NOT NULL FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY m(id, event_id, i)
LEFT JOIN `+table("event", lane)+` e ON e.id = m.id AND e.event_id::text = m.event_id ORDER BY m.i`, ids, events)
	if err != nil {
		return nil, fmt.Errorf("look up published events: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[bool])
}
