// Package wire has the types of the HTTP APIs, each once: the services write them, the
// client reads them, and the OpenAPI documents describe them. It has no behaviour beyond
// what a type needs to be an error or to be shown.
package wire

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Problem is the body of an error response (RFC 9457).
type Problem struct {
	Type   string `json:"type"`             // a URN that ends with the code
	Title  string `json:"title"`            // of the HTTP status
	Status int    `json:"status"`           // HTTP status
	Detail string `json:"detail,omitempty"` // for people
	// stable, for programs; "" if the answer does not come from the service
	Code   string       `json:"code"`
	Errors []FieldError `json:"errors,omitempty"` // the fields that are wrong; nil for none
	// Challenge, if it is set, is what a caller may solve to be served before others.
	Challenge *Challenge `json:"challenge,omitempty"`
	// RetryAfter is the Retry-After header: how long to wait before the next call; 0 if there is none.
	RetryAfter time.Duration `json:"-"`
}

// FieldError says what is wrong with one field of a request. It never holds the value.
type FieldError struct {
	Pointer string `json:"pointer"` // JSON Pointer, or "/name" of a query parameter
	Detail  string `json:"detail"`  // for people
}

// Error implements error.
func (p *Problem) Error() string {
	text := fmt.Sprintf("%d %s: %s", p.Status, cmp.Or(p.Code, p.Title), p.Detail)
	for _, e := range p.Errors {
		text += "; " + e.Pointer + " " + e.Detail
	}
	return text
}

// Temporary reports whether the same call may succeed later.
func (p *Problem) Temporary() bool {
	return p.Status == http.StatusRequestTimeout || p.Status == http.StatusTooManyRequests || p.Status >= 500
}

// Challenge asks a caller of a busy service to find the number, from 0 to MaxNumber, for which the SHA-256 of
// the salt followed by the number is the challenge. The format is ALTCHA's, version 1.
type Challenge struct {
	Algorithm string `json:"algorithm"` // "SHA-256"
	Challenge string `json:"challenge"` // hex
	MaxNumber int64  `json:"maxnumber"` // the number is not greater
	Salt      string `json:"salt"`      // hex, with its expiry as a parameter
	Signature string `json:"signature"` // hex
}

// Solution answers a [Challenge]. It travels as base64 of its JSON.
type Solution struct {
	Algorithm string `json:"algorithm"` // as in the challenge
	Challenge string `json:"challenge"` // as in the challenge
	Number    int64  `json:"number"`    // the answer
	Salt      string `json:"salt"`      // as in the challenge
	Signature string `json:"signature"` // as in the challenge
}

// Page is one page of a list.
type Page[T any] struct {
	Items      []T    `json:"items"`       // never nil
	NextCursor Cursor `json:"next_cursor"` // "" on the last page
}

// Cursor says where the next page of a list begins. After the last page it is "", and null in JSON.
type Cursor string

// MarshalJSON implements json.Marshaler.
func (c Cursor) MarshalJSON() ([]byte, error) {
	if c == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(c))
}
