package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Names of the message headers that carry CloudEvents attributes in binary content mode. NATS headers are
// case-sensitive: use these exact names.
const (
	HeaderID          = "ce-id"
	HeaderSource      = "ce-source"
	HeaderSpecVersion = "ce-specversion"
	HeaderType        = "ce-type"
	HeaderSubject     = "ce-subject"
	HeaderTime        = "ce-time"
	HeaderSagaID      = "ce-sagaid"
	HeaderGeneration  = "ce-generation"
	HeaderTraceParent = "traceparent"
	HeaderContentType = "content-type"
)

// StructuredContentType marks a message whose body is the whole event.
const StructuredContentType = "application/cloudevents+json"

// ErrMalformed is wrapped by every error of [Parse] and [Event.DataTo]. A
// malformed message stays malformed: it belongs in a dead letter, not in a retry.
var ErrMalformed = errors.New("malformed event")

// ErrForeign is wrapped, together with [ErrMalformed], by errors of [Receive] for a message that did not come
// from the producer of its type on the subject of its type. A participant must not answer such a message, even
// if it is addressed to that participant.
var ErrForeign = errors.New("foreign event")

// Event is a CloudEvents 1.0 envelope with two extension attributes, sagaid and
// generation. They are attributes rather than data so that a message whose data
// cannot be decoded can still be answered.
type Event struct {
	SpecVersion string    `json:"specversion"`           // 1.0
	ID          string    `json:"id"`                    // UUID, new for each event
	Source      string    `json:"source"`                // see [Source]
	Type        Type      `json:"type"`                  // one of [Table], or of a later version
	Subject     string    `json:"subject"`               // the ordering key: the member id, if it is about a member
	Time        time.Time `json:"time"`                  // when it was appended to the outbox
	SagaID      string    `json:"sagaid,omitempty"`      // UUID; "" for none
	Generation  int64     `json:"generation,omitempty"`  // from 1; 0 for none
	TraceParent string    `json:"traceparent,omitempty"` // W3C trace context

	Data json.RawMessage `json:"data"` // JSON, see the type
}

// Receive parses a message as [Parse] does, and checks that it came as messages of its type must: on the
// subject of the type, and from the service that produces it. It refuses a copy that the server made of a
// stored message. A type that is not in [Table] may come from any service, on a subject that ends with the
// type.
func Receive(subject string, headers map[string][]string, body []byte) (Event, error) {
	e, err := Parse(headers, body)
	if foreign := e.cameBy(subject, headers); foreign != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w: %w", ErrMalformed, ErrForeign, foreign))
	}
	return e, err
}

func (e Event) cameBy(subject string, headers map[string][]string) error {
	route, known := RouteOf(e.Type)
	lane, found := strings.CutSuffix(subject, string(e.Type))
	switch {
	case known && subject != route.Subject():
		return errors.New("the type does not belong on this subject")
	case known && e.Source != Source(route.Producer):
		return errors.New("the source is not the producer of this type")
	case !known && (!found || lane != SubjectPrefix(Essential) && lane != SubjectPrefix(NonEssential)):
		return errors.New("the type is not that of the subject")
	case first(headers, headerCopied) != "":
		return errors.New("the message is a server-made copy of a stored message")
	}
	return nil
}

// headerCopied is set by the server in each copy of a message that it read from a stream.
const headerCopied = "Nats-Stream"

// Parse parses a message in binary or structured content mode. On an error, which wraps [ErrMalformed], it also
// returns what it could parse, including the attributes. It does not check the type: the reader decides which
// types it handles, because a newer producer may send others. A malformed traceparent counts as none.
func Parse(headers map[string][]string, body []byte) (Event, error) {
	e, err := parse(headers, body)
	if !traceParent.MatchString(e.TraceParent) {
		e.TraceParent = ""
	}
	return e, err
}

var traceParent = regexp.MustCompile("^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")

func parse(headers map[string][]string, body []byte) (Event, error) {
	if strings.HasPrefix(first(headers, HeaderContentType), StructuredContentType) {
		return parseStructured(body)
	}
	e := Event{
		SpecVersion: first(headers, HeaderSpecVersion),
		ID:          first(headers, HeaderID),
		Source:      first(headers, HeaderSource),
		Type:        Type(first(headers, HeaderType)),
		Subject:     first(headers, HeaderSubject),
		SagaID:      first(headers, HeaderSagaID),
		TraceParent: first(headers, HeaderTraceParent),
		Data:        json.RawMessage(body),
	}
	var errs []error
	var bounds checks
	bounds.headers(headers)
	errs = append(errs, bounds.err())
	if s := first(headers, HeaderTime); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		e.Time, errs = t, append(errs, err)
	}
	if s := first(headers, HeaderGeneration); s != "" {
		g, err := strconv.ParseInt(s, 10, 64)
		e.Generation, errs = g, append(errs, err)
	}
	if err := errors.Join(append(errs, e.validate())...); err != nil {
		return e, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return e, nil
}

func parseStructured(body []byte) (Event, error) {
	var e Event
	if len(body) > 2*MaxDataBytes {
		return e, fmt.Errorf("%w: the event is larger than %d bytes", ErrMalformed, 2*MaxDataBytes)
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return e, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := e.validate(); err != nil {
		return e, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return e, nil
}

func (e Event) validate() error {
	var out checks
	if e.SpecVersion != "1.0" {
		out.fail("specversion", "be 1.0")
	}
	if e.ID == "" || e.Source == "" {
		out.fail("id and source", "not be empty")
	}
	out.name("id", e.ID)
	out.name("source", e.Source)
	out.class("type", string(e.Type))
	out.name("subject", e.Subject)
	if e.SagaID != "" {
		out.uuid("sagaid", e.SagaID)
	}
	out.number("generation", e.Generation, 0, MaxGeneration)
	if !e.Time.IsZero() {
		out.time("time", e.Time, ahead)
	}
	if len(e.Data) > MaxDataBytes {
		out.fail("data", fmt.Sprintf("be up to %d bytes", MaxDataBytes))
	} else if !json.Valid(e.Data) {
		out.fail("data", "be JSON")
	}
	return out.err()
}

// DataTo decodes the event's data into v. If v has a Validate method, it is called. Data that says which member
// it is about is also compared with the attributes. Unknown fields are ignored, so that newer producers may add
// some. Errors wrap [ErrMalformed].
func (e Event) DataTo(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("%w: data of %s: %w", ErrMalformed, e.Type, err)
	}
	if c, ok := v.(interface{ Validate() error }); ok {
		if err := c.Validate(); err != nil {
			return fmt.Errorf("%w: data of %s: %w", ErrMalformed, e.Type, err)
		}
	}
	if c, ok := v.(interface {
		whom() (memberID, sagaID string, generation int64)
	}); ok && !e.isAbout(c.whom()) {
		return fmt.Errorf("%w: data of %s: the attributes name another member, saga or generation",
			ErrMalformed, e.Type)
	}
	return nil
}

// isAbout reports whether no attribute contradicts the data: two readers of one message must not see two
// members in it. An attribute that is missing ("" or 0) contradicts nothing.
func (e Event) isAbout(memberID, sagaID string, generation int64) bool {
	return (e.Subject == "" || e.Subject == memberID) && (e.SagaID == "" || e.SagaID == sagaID) &&
		(e.Generation == 0 || generation == 0 || e.Generation == generation)
}

// Headers returns the attributes that the outbox does not set: sagaid, generation and traceparent, where
// present. A malformed traceparent counts as none.
func (e Event) Headers() map[string]string {
	h := make(map[string]string, 3)
	if e.SagaID != "" {
		h[HeaderSagaID] = e.SagaID
	}
	if e.Generation != 0 {
		h[HeaderGeneration] = strconv.FormatInt(e.Generation, 10)
	}
	if traceParent.MatchString(e.TraceParent) {
		h[HeaderTraceParent] = e.TraceParent
	}
	return h
}

func first(headers map[string][]string, name string) string {
	if v := headers[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
