package service

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// maxTarget is the longest request target in bytes: the length that RFC 9110, 4.1, recommends supporting.
const maxTarget = 8000

// methods are all methods that a resource may support. No resource supports any other.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodOptions, http.MethodTrace, http.MethodConnect,
}

// singletons are headers that a request may have only once: of two, a proxy and this service could each believe
// a different one.
var singletons = []string{"Authorization", "Content-Length", "Content-Type", "Last-Event-Id", "Origin"}

// refusal returns why a request is refused, whatever its resource, or nil. It may set a header that says what
// would be accepted.
func refusal(w http.ResponseWriter, r *http.Request) *wire.Problem {
	if len(r.RequestURI) > maxTarget {
		return NewProblem(http.StatusRequestURITooLong, "uri_too_long", "the request target is too long")
	}
	if !slices.Contains(methods, r.Method) {
		return NewProblem(http.StatusNotImplemented, "not_implemented", "no resource supports this method")
	}
	for _, name := range singletons {
		if len(r.Header[name]) > 1 {
			return NewProblem(http.StatusBadRequest, "duplicate_header", name+" must be sent only once")
		}
	}
	for _, coding := range strings.Split(strings.Join(r.Header["Content-Encoding"], ","), ",") {
		if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
			w.Header().Set("Accept-Encoding", "identity")
			return NewProblem(http.StatusUnsupportedMediaType, "unsupported_encoding",
				"send the body without Content-Encoding")
		}
	}
	return nil
}

// unknownMethod answers requests with a method that their resource does not support: 405, or 204 to OPTIONS.
// The Allow header lists the methods that the resource supports. match asks the router whether it supports one.
func unknownMethod(match func(method, path string) bool) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		path := cmp.Or(r.URL.RawPath, r.URL.Path) // as routers match it
		var allow []string
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if match(method, path) {
				allow = append(allow, method)
			}
			if method == http.MethodGet && len(allow) > 0 {
				allow = append(allow, http.MethodHead)
			}
		}
		w.Header().Set("Allow", strings.Join(append(allow, http.MethodOptions), ", "))
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		return NewProblem(http.StatusMethodNotAllowed, "method_not_allowed",
			"the resource does not support this method")
	}
}
