package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of the fields of a message. Every number fits its column in Postgres, and can still be raised there
// without overflow. Every bound is far above what the services ever send.
const (
	// MaxGeneration bounds generations. Only people raise them, by a retry or by leaving: at one retry a minute
	// it takes two years to get there.
	MaxGeneration = 1_000_000
	MaxQuotaBytes = 1 << 50 // 1 PiB, a thousand times the largest plan
	MaxAttempt    = 1_000_000_000
	MaxVersion    = 1 << 53 // JSON numbers are exact up to here

	MaxName = 128  // bytes of an id, a source, an error class, a state
	MaxText = 4096 // bytes of a message for people, or of a fingerprint

	MaxHeaders     = 64        // headers of a message
	MaxHeaderBytes = 16 << 10  // their names and values together
	MaxDataBytes   = 256 << 10 // the body of a message
)

// Bounds of the times in a message. They are wide: a clock that is wrong by hours must not turn messages into
// dead letters.
var earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	ahead  = 24 * time.Hour       // how far in the future the time of something that has happened may be
	future = 366 * 24 * time.Hour // how far in the future the time of something planned may be
)

var (
	uuidPattern  = regexp.MustCompile("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
	classPattern = regexp.MustCompile("^[a-z0-9][a-z0-9_.-]*$")
)

// checks collects which fields are out of bounds. It never contains a value, which could be anything.
type checks []error

func (c *checks) fail(field, rule string) { *c = append(*c, fmt.Errorf("%s must %s", field, rule)) }

func (c *checks) number(field string, n, least, most int64) {
	if n < least || n > most {
		c.fail(field, fmt.Sprintf("be %d to %d", least, most))
	}
}

// uuid accepts a canonical UUID, as Postgres prints it.
func (c *checks) uuid(field, s string) {
	if !uuidPattern.MatchString(s) {
		c.fail(field, "be a UUID in lower case")
	}
}

// class checks a word that we define: an error class, a state or an event type.
func (c *checks) class(field, s string) {
	if len(s) > MaxName || !classPattern.MatchString(s) {
		c.fail(field, fmt.Sprintf("be up to %d lower-case letters, digits, dots, hyphens and underscores", MaxName))
	}
}

// text refuses text that is too long or that Postgres cannot store; it may be empty.
func (c *checks) text(field, s string, most int) {
	if len(s) > most || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		c.fail(field, fmt.Sprintf("be up to %d bytes of UTF-8 without NUL", most))
	}
}

// name checks an identifier that others have chosen: text without control characters.
func (c *checks) name(field, s string) {
	if c.text(field, s, MaxName); strings.ContainsFunc(s, unicode.IsControl) {
		c.fail(field, "have no control characters")
	}
}

func (c *checks) time(field string, t time.Time, ahead time.Duration) {
	if t.Before(earliest) || t.After(time.Now().Add(ahead)) {
		c.fail(field, "be a time after the year 2000 and not far in the future")
	}
}

func (c *checks) headers(headers map[string][]string) {
	total := 0
	for name, values := range headers {
		total += len(name)
		for _, v := range values {
			total += len(v)
		}
		if len(values) > 1 && strings.HasPrefix(name, "ce-") {
			c.fail("every attribute", "occur once")
		}
	}
	if len(headers) > MaxHeaders || total > MaxHeaderBytes {
		c.fail("headers", fmt.Sprintf("be up to %d, with %d bytes", MaxHeaders, MaxHeaderBytes))
	}
}

func (c *checks) err() error { return errors.Join(*c...) }

// Encode returns the data of an event as JSON. Data that is out of bounds is refused, because a reader would
// refuse it; that error wraps [ErrMalformed].
func Encode(data interface{ Validate() error }) (json.RawMessage, error) {
	if err := data.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return json.Marshal(data)
}
