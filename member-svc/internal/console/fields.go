package console

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// field is a filter of a list: a value in the URL, and an input of the form above the list.
type field struct {
	Name, Label  string
	Hint         string   // an example of a text
	Options      []option // choices; nil for a text field
	Value, Wrong string   // the value as it was typed, and what is wrong with it
}

type option struct{ Value, Text string }

// Strange reports whether the value is not one of the choices.
func (f field) Strange() bool {
	return f.Value != "" && !slices.ContainsFunc(f.Options, func(o option) bool { return o.Value == f.Value })
}

// fields are a form of filters.
type fields []field

// read fills the form from a URL. It refuses names that are neither filters nor in others, as the API does: a
// misspelt filter would select everything, which misleads.
func (fs fields) read(q url.Values, others ...string) error {
	for name, values := range q {
		f := fs.field(name)
		switch {
		case f != nil && len(values) == 1:
			f.Value = strings.TrimSpace(values[0])
		case f != nil || !slices.Contains(others, name):
			return invalid(name, "is not a filter, or occurs more than once")
		}
	}
	return nil
}

// field returns a field by name, or nil.
func (fs fields) field(name string) *field {
	i := slices.IndexFunc(fs, func(f field) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &fs[i]
}

func (fs fields) value(name string) string { return fs.field(name).Value }

// instant parses a time, which is in UTC unless it has an offset.
func (fs fields) instant(name string) time.Time {
	f := fs.field(name)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, strings.Replace(f.Value, " ", "T", 1)); err == nil {
			return t
		}
	}
	if f.Value != "" {
		f.Wrong = "must be a time like 2026-11-22 10:00, in UTC"
	}
	return time.Time{}
}

// blame marks the fields that the API refused. It reports whether any field is marked.
func (fs fields) blame(err error) bool {
	var p *wire.Problem
	if !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity {
		return false
	}
	for _, e := range p.Errors {
		if f := fs.field(strings.TrimPrefix(e.Pointer, "/")); f != nil {
			f.Wrong = e.Detail
		}
	}
	return fs.Wrong()
}

// Wrong reports whether any field is wrong.
func (fs fields) Wrong() bool {
	return slices.ContainsFunc(fs, func(f field) bool { return f.Wrong != "" })
}

// answer returns v, as a refusal if a field is wrong.
func (fs fields) answer(v view) (view, error) {
	if fs.Wrong() {
		return view{}, mistake{&wire.Problem{Status: http.StatusUnprocessableEntity}, v}
	}
	return v, nil
}

// invalid returns the refusal of a value in a form or a URL.
func invalid(name, detail string) *wire.Problem {
	return &wire.Problem{
		Status: http.StatusUnprocessableEntity, Title: "Unprocessable Entity", Detail: "the request is not valid",
		Errors: []wire.FieldError{{Pointer: "/" + name, Detail: detail}},
	}
}

// pager holds links to other pages of a list; "" for none.
type pager struct{ First, Next string }

// newPager returns links that keep the filters of a request.
func newPager(r *http.Request, next wire.Cursor) (p pager) {
	q := filtersOf(r)
	if r.URL.Query().Has("cursor") {
		p.First = "?" + q.Encode()
	}
	if next != "" {
		q.Set("cursor", string(next))
		p.Next = "?" + q.Encode()
	}
	return p
}

// filtersOf returns the query of a request without its place in the list and without the result of the last
// action.
func filtersOf(r *http.Request) url.Values {
	q := r.URL.Query()
	for name, values := range q {
		if slices.Contains([]string{"cursor", "accepted", "refused", "requeued"}, name) || values[0] == "" {
			delete(q, name)
		}
	}
	return q
}
