package web

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// Transport is an http.RoundTripper that calls a handler of the same process: pages on
// top of an API keep to its rules by calling it. Requests carry the values of their
// context to the handler, and the peer's address of the page's request if their
// context is one of [ForClient]. The handler's answer is kept whole in memory. Safe for
// concurrent use.
type Transport struct{ Handler http.Handler }

type clientKey struct{}

// ForClient returns a context whose requests come, for the handler of a [Transport],
// from the client that sent r.
func ForClient(r *http.Request) context.Context {
	return context.WithValue(r.Context(), clientKey{}, r)
}

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context()) // a RoundTripper leaves the request alone
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer r.Body.Close()
	if page, ok := r.Context().Value(clientKey{}).(*http.Request); ok {
		r.RemoteAddr = page.RemoteAddr
	}
	a := &answer{header: make(http.Header), status: http.StatusOK}
	t.Handler.ServeHTTP(a, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()), Request: r,
	}, nil
}

// answer is an http.ResponseWriter that keeps what is written.
type answer struct {
	header http.Header
	body   bytes.Buffer
	status int
	begun  bool
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if !a.begun {
		a.status, a.begun = status, true
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.body.Write(b)
}
