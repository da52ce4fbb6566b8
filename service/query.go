package service

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Invalid returns the problem for a request with one wrong field or parameter.
func Invalid(pointer, detail string) *wire.Problem {
	return NewProblem(http.StatusUnprocessableEntity, "validation_failed", "the request is not valid",
		wire.FieldError{Pointer: pointer, Detail: detail})
}

// Params maps the names of query parameters to functions that parse their values. Each returns what is wrong
// with its value, or "".
type Params map[string]func(value string) (wrong string)

// Query returns the parameters of a request, or a [wire.Problem] if one of them cannot be parsed. net/http
// drops such a parameter: a filter would then select everything.
func Query(r *http.Request) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		const detail = "the query cannot be read: write % as %25 and ; as %3B, and put & between parameters"
		return nil, NewProblem(http.StatusUnprocessableEntity, "validation_failed", detail)
	}
	return q, nil
}

// ReadQuery parses the query of a request. Errors are a [wire.Problem].
func ReadQuery(r *http.Request, known Params) error {
	q, err := Query(r)
	if err != nil {
		return err
	}
	return known.Read(q, "")
}

// Read parses values strictly: a misspelt filter that is ignored would select everything. Errors point to names
// under prefix.
func (known Params) Read(values url.Values, prefix string) error {
	for name, given := range values {
		set := known[name]
		if set == nil {
			return Invalid(prefix+"/"+name, "is not a filter")
		}
		if len(given) > 1 {
			return Invalid(prefix+"/"+name, "is given more than once")
		}
		if wrong := set(given[0]); wrong != "" {
			return Invalid(prefix+"/"+name, wrong)
		}
	}
	return nil
}

// Text parses a text of 1 to 1,000 bytes that Postgres can store.
func Text(dst *string) func(string) string {
	return func(v string) string {
		if *dst = v; v == "" || len(v) > 1000 || strings.ContainsRune(v, 0) || strings.ToValidUTF8(v, "") != v {
			return "cannot be read"
		}
		return ""
	}
}

// Limit parses how many items a page may have: 1 to most.
func Limit(dst *int, most int) func(string) string {
	return func(v string) string {
		n, err := strconv.Atoi(v)
		if *dst = n; err != nil || n < 1 || n > most {
			return fmt.Sprintf("must be 1 to %d", most)
		}
		return ""
	}
}

// Parsed parses a value with parse.
func Parsed[T any](dst *T, parse func(string) (T, error)) func(string) string {
	return func(v string) string {
		var err error
		if *dst, err = parse(v); err != nil {
			return "cannot be read"
		}
		return ""
	}
}

// WritePage writes a page of a list. next is the cursor of the next page, or "" after the last page.
func WritePage[T any](w http.ResponseWriter, items []T, next string) error {
	page := wire.Page[T]{Items: items, NextCursor: wire.Cursor(next)}
	if items == nil {
		page.Items = []T{}
	}
	return WriteJSON(w, http.StatusOK, page)
}
