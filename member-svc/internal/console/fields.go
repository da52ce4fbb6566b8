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

// field is a filter of a list: a value in the URL, and an entry of the form above it.
type field struct {
	Name, Label  string
	Hint         string   // an example of a text
	Options      []option // to choose from; nil for a text
	Value, Wrong string   // as it was typed, and what is wrong with it
}

type option struct{ Value, Text string }

// Strange reports whether the value is none of those to choose from.
func (f field) Strange() bool {
	return f.Value != "" && !slices.ContainsFunc(f.Options, func(o option) bool { return o.Value == f.Value })
}

// fields are a form of filters.
type fields []field

// read fills the form from a URL. Whatever is neither a filter nor one of the other
// names is refused, as by the API: a misspelt filter that selects everything misleads.
func (fs fields) read(q url.Values, others ...string) error {
	for name, values := range q {
		f := fs.field(name)
		switch {
		case f != nil && len(values) == 1:
			f.Value = strings.TrimSpace(values[0])
		case f != nil || !slices.Contains(others, name):
			return invalid(name, "is not a filter, or given more than once")
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

// instant reads a time; UTC unless it says otherwise.
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

// blame marks the fields that the API found something wrong with, if there are any.
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

// Wrong reports whether something is wrong with any of them.
func (fs fields) Wrong() bool {
	return slices.ContainsFunc(fs, func(f field) bool { return f.Wrong != "" })
}

// answer returns a page with this form, as a refusal if something in it is wrong.
func (fs fields) answer(v view) (view, error) {
	if fs.Wrong() {
		return view{}, mistake{&wire.Problem{Status: http.StatusUnprocessableEntity}, v}
	}
	return v, nil
}

// invalid is a refusal of something in a form or a URL.
func invalid(name, detail string) *wire.Problem {
	return &wire.Problem{
		Status: http.StatusUnprocessableEntity, Title: "Unprocessable Entity", Detail: "the request is not valid",
		Errors: []wire.FieldError{{Pointer: "/" + name, Detail: detail}},
	}
}

// pager links to other pages of a list; "" for none.
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

// filtersOf returns the query of a request without its place in the list, and without
// news of what was just done.
func filtersOf(r *http.Request) url.Values {
	q := r.URL.Query()
	for name, values := range q {
		if slices.Contains([]string{"cursor", "accepted", "refused", "requeued"}, name) || values[0] == "" {
			delete(q, name)
		}
	}
	return q
}
