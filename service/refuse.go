package service

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// maxTarget is the longest request target in bytes: what RFC 9110, 4.1, asks servers to take.
const maxTarget = 8000

// methods are those that resources may know. A method that is none of them is no
// resource's.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodOptions, http.MethodTrace, http.MethodConnect,
}

// singletons are headers of which a request has one: with two, a proxy and this service
// could each believe another one.
var singletons = []string{"Authorization", "Content-Length", "Content-Type", "Last-Event-Id", "Origin"}

// refusal returns why a request is refused whatever resource it is for, or nil. It may
// set a header that says what would be accepted.
func refusal(w http.ResponseWriter, r *http.Request) *wire.Problem {
	if len(r.RequestURI) > maxTarget {
		return NewProblem(http.StatusRequestURITooLong, "uri_too_long", "the request target is too long")
	}
	if !slices.Contains(methods, r.Method) {
		return NewProblem(http.StatusNotImplemented, "not_implemented", "no resource knows this method")
	}
	for _, name := range singletons {
		if len(r.Header[name]) > 1 {
			return NewProblem(http.StatusBadRequest, "duplicate_header", name+" must be sent once")
		}
	}
	for _, coding := range strings.Split(strings.Join(r.Header["Content-Encoding"], ","), ",") {
		if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
			w.Header().Set("Accept-Encoding", "identity")
			return NewProblem(http.StatusUnsupportedMediaType, "unsupported_encoding", "send the body as it is")
		}
	}
	return nil
}

// UnknownMethod answers requests whose method their resource does not know: 405, or
// 204 to OPTIONS. The header Allow names the methods that it knows: those that match,
// which asks the router.
func UnknownMethod(match func(method, path string) bool) Handler {
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
		return NewProblem(http.StatusMethodNotAllowed, "method_not_allowed", "the resource does not know this method")
	}
}
