package web

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// Transport is an http.RoundTripper that calls a handler in the same process. Pages on top of an API use it, so
// that the API's rules apply to them. The handler sees the values of the request's context. If that context
// comes from [ForClient], the handler also sees the peer address of the page's request. The whole response is
// kept in memory. Safe for concurrent use.
type Transport struct{ Handler http.Handler }

type clientKey struct{}

// ForClient returns a context for requests on behalf of the client that sent r: the handler of a [Transport]
// sees them as coming from that client.
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
