package api

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

const defaultLimit = 50

// filters read the values of a query, by name, and return what is wrong with them, or "".
type filters map[string]func(value string) (wrong string)

// readQuery reads the query of a request.
func readQuery(r *http.Request, known filters) error {
	q, err := service.Query(r)
	if err != nil {
		return err
	}
	return read(q, "", known)
}

// read reads a query strictly: a misspelt filter that selects everything misleads.
// Errors point to names under a prefix.
func read(q url.Values, prefix string, known filters) error {
	for name, values := range q {
		set := known[name]
		if set == nil {
			return invalid(prefix+"/"+name, "is not a filter")
		}
		if len(values) > 1 {
			return invalid(prefix+"/"+name, "is given more than once")
		}
		if wrong := set(values[0]); wrong != "" {
			return invalid(prefix+"/"+name, wrong)
		}
	}
	return nil
}

func text(dst *string) func(string) string {
	return func(v string) string {
		if *dst = v; v == "" || len(v) > 1000 || strings.ContainsRune(v, 0) || strings.ToValidUTF8(v, "") != v {
			return "cannot be read"
		}
		return ""
	}
}

func limit(dst *int) func(string) string {
	return func(v string) string {
		n, err := strconv.Atoi(v)
		if *dst = n; err != nil || n < 1 || n > 200 {
			return "must be 1 to 200"
		}
		return ""
	}
}

func parsed[T any](dst *T, parse func(string) (T, error)) func(string) string {
	return func(v string) string {
		var err error
		if *dst, err = parse(v); err != nil {
			return "cannot be read"
		}
		return ""
	}
}

// writePage writes a page of a list and where the next one begins; "" if it is the last.
func writePage[T any](w http.ResponseWriter, items []T, next string) error {
	page := wire.Page[T]{Items: items, NextCursor: wire.Cursor(next)}
	if items == nil {
		page.Items = []T{}
	}
	return service.WriteJSON(w, http.StatusOK, page)
}
