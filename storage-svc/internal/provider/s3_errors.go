package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	dialTimeout       = 2 * time.Second
	headerTimeout     = 30 * time.Second // for callers without a deadline
	longestRetryAfter = 5 * time.Minute
)

var (
	// errAbsent means that there is no such object.
	errAbsent = errors.New("there is no such object")
	// errChanged means that the condition of a PUT did not hold.
	errChanged = &provision.Failure{Class: provision.ClassTransient,
		Err: errors.New("another writer changed the marker")}
)

// unknown reports whether a failed PUT may have had its effect, or another process's PUT had, so that the
// marker must be read. It is false if the context has ended.
func unknown(err error) bool {
	var f *provision.Failure
	return errors.As(err, &f) && f.Class == provision.ClassTransient
}

func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSHandshakeTimeout: dialTimeout,
		ResponseHeaderTimeout: headerTimeout, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 64,
		ForceAttemptHTTP2: true, DisableCompression: true,
	}
}

// transport classifies what the client hides from its callers: network errors, and Retry-After.
type transport struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, networkFailure(err)
	}
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // the status is enough
	return nil, busy(resp, body)
}

// busy distinguishes a store that asks for fewer calls from one that is unavailable.
func busy(resp *http.Response, body []byte) error {
	f := &provision.Failure{
		Class: provision.ClassOutage, RetryAfter: retryAfter(resp.Header.Get("Retry-After")),
		Err: fmt.Errorf("the object store answered %s", resp.Status),
	}
	slower := bytes.Contains(body, []byte("SlowDown")) || bytes.Contains(body, []byte("Throttl"))
	if resp.StatusCode == http.StatusTooManyRequests || slower {
		f.Class = provision.ClassThrottled
	}
	return f
}

// retryAfter parses seconds or a date.
func retryAfter(header string) time.Duration {
	var wait time.Duration
	if n, err := strconv.Atoi(header); err == nil {
		wait = time.Duration(min(n, int(longestRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		wait = time.Until(at)
	}
	return min(max(wait, 0), longestRetryAfter)
}

// networkFailure classifies a network error. If the store cannot be reached at all, it is an outage. If the
// connection broke later, the outcome is unknown.
func networkFailure(err error) error {
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &op) && op.Op == "dial", errors.As(err, &cert), errors.As(err, &record):
		return &provision.Failure{Class: provision.ClassOutage, Err: err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	case strings.Contains(err.Error(), "EOF"): // the client would replace it with a text that has the URL
		err = errors.New("the connection was closed before the answer")
	}
	return &provision.Failure{Class: provision.ClassTransient, Err: err}
}

// failure classifies an error of the client. What all members meet alike is an outage, even withdrawn
// credentials: no member causes it, so it does not count as an attempt. URLs, which contain ids, are removed:
// errors are shown to operators, grouped by their words.
func failure(err error) error {
	var f *provision.Failure
	var r minio.ErrorResponse
	var u *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &r):
		return answered(r)
	case errors.As(err, &u):
		err = u.Err
	}
	return &provision.Failure{Class: provision.ClassTransient, Err: err}
}

func answered(r minio.ErrorResponse) error {
	f := &provision.Failure{Class: provision.ClassRejected, Err: fmt.Errorf("%s: %s", r.Code, r.Message)}
	switch code := r.StatusCode; {
	case code == http.StatusPreconditionFailed, code == http.StatusConflict:
		return errChanged
	case r.Code == "NoSuchKey" || r.Code == "NoSuchVersion":
		return errAbsent
	case code == http.StatusInternalServerError, code == http.StatusRequestTimeout, r.Code == "RequestTimeout":
		f.Class = provision.ClassTransient
	case code > http.StatusInternalServerError, code == http.StatusNotFound, code == http.StatusMovedPermanently,
		code == http.StatusTemporaryRedirect, code == http.StatusUnauthorized, code == http.StatusForbidden,
		r.Code == "AuthorizationHeaderMalformed", r.Code == "InvalidBucketName":
		f.Class = provision.ClassOutage
	}
	return f
}
