// Package client calls the HTTP APIs of Signup Saga: [Public] for members, [Admin] for operators, [Storage] for
// the Storage service. Every call takes a context, and reads at most [MaxBody] bytes of an answer. If the
// service refuses a call, the error is a [*wire.Problem]. After any other error, it is unknown whether the call
// was carried out.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// MaxBody is the size in bytes of the largest answer that is read.
const MaxBody = 8 << 20

// ErrTooLarge is returned for an answer of more than [MaxBody] bytes.
var ErrTooLarge = errors.New("the answer is too large")

// caller calls one listener.
type caller struct {
	base  string
	token string
	http  *http.Client
}

func newCaller(base, token string, h *http.Client) caller {
	return caller{strings.TrimSuffix(base, "/"), token, cmp.Or(h, http.DefaultClient)}
}

// call is a request and where its answer goes.
type call struct {
	method, path string
	query        url.Values
	header       http.Header
	token        string // instead of the caller's
	body, into   any    // nil for none
}

// do sends a request, reads the answer into r.into, and returns the answer's header.
func (c caller) do(ctx context.Context, r call) (http.Header, error) {
	response, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := read(response.Body)
	if err == nil && r.into != nil {
		err = json.Unmarshal(body, r.into)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	return response.Header, nil
}

// send returns a successful response, with its body unread. Any other response is an error, a [*wire.Problem].
func (c caller) send(ctx context.Context, r call) (*http.Response, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.URL.RawQuery = r.query.Encode()
	for name, values := range r.header {
		request.Header[name] = values
	}
	if r.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if token := cmp.Or(r.token, c.token); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, problem(response)
}

func problem(response *http.Response) error {
	p := &wire.Problem{}
	body, err := read(response.Body)
	if err != nil || json.Unmarshal(body, p) != nil {
		p = &wire.Problem{Title: http.StatusText(response.StatusCode)} // perhaps a proxy's answer
	}
	p.Status = response.StatusCode
	p.RetryAfter = retryAfter(response.Header)
	return p
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

func read(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if err == nil && len(body) > MaxBody {
		err = ErrTooLarge
	}
	return body, err
}

// pause waits for d, or returns the context's error when it ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
