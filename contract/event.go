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

// Names of the message headers that carry CloudEvents attributes in binary
// content mode. NATS headers are case-sensitive: these are exact.
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

// Event is a CloudEvents 1.0 envelope with two extension attributes, sagaid and
// generation. They are attributes rather than data so that a message whose data
// cannot be decoded can still be answered.
type Event struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        Type      `json:"type"`
	Subject     string    `json:"subject"` // the ordering key: the member id, if it is about a member
	Time        time.Time `json:"time"`
	SagaID      string    `json:"sagaid,omitempty"`
	Generation  int64     `json:"generation,omitempty"`
	TraceParent string    `json:"traceparent,omitempty"` // W3C trace context

	Data json.RawMessage `json:"data"`
}

// Parse reads a message in binary or structured content mode. On error it
// returns what it could read, wrapped attributes included, beside an error
// that wraps [ErrMalformed]. Which types it handles is the reader's business: a
// newer producer may send others. A malformed traceparent counts as none.
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
	if err := json.Unmarshal(body, &e); err != nil {
		return e, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := e.validate(); err != nil {
		return e, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return e, nil
}

func (e Event) validate() error {
	var errs []error
	if e.SpecVersion != "1.0" {
		errs = append(errs, fmt.Errorf("specversion %q is not 1.0", e.SpecVersion))
	}
	if e.ID == "" || e.Source == "" || e.Type == "" {
		errs = append(errs, errors.New("id, source and type are required"))
	}
	if !json.Valid(e.Data) {
		errs = append(errs, errors.New("data is not JSON"))
	}
	return errors.Join(errs...)
}

// DataTo decodes the event's data into v and, where v has a Validate method,
// checks it. Unknown fields are ignored, so that newer producers may add some.
// Errors wrap [ErrMalformed].
func (e Event) DataTo(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("%w: data of %s: %w", ErrMalformed, e.Type, err)
	}
	if c, ok := v.(interface{ Validate() error }); ok {
		if err := c.Validate(); err != nil {
			return fmt.Errorf("%w: data of %s: %w", ErrMalformed, e.Type, err)
		}
	}
	return nil
}

// Headers returns the attributes that the outbox does not set by itself:
// sagaid, generation and traceparent, where present.
func (e Event) Headers() map[string]string {
	h := make(map[string]string, 3)
	if e.SagaID != "" {
		h[HeaderSagaID] = e.SagaID
	}
	if e.Generation != 0 {
		h[HeaderGeneration] = strconv.FormatInt(e.Generation, 10)
	}
	if e.TraceParent != "" {
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
