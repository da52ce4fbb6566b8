package provider_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

func class(t *testing.T, err error, want provision.Class, cause error) {
	t.Helper()
	var f *provision.Failure
	if !errors.As(err, &f) || f.Class != want || (cause != nil && !errors.Is(err, cause)) {
		t.Errorf("err = %v (%T), expected class %s", err, err, want)
	}
	if err != nil && strings.Contains(err.Error(), storage(1).MemberID) {
		t.Errorf("an id in %q would make a group of its own", err)
	}
}

// losing returns a transport that reports a broken connection for the n-th request that matters, after
// performing it or without. It counts the marker's PUTs.
func losing(n int, effective bool, broken error, puts *int) http.RoundTripper {
	count := 0
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		if isMarkerPut(r) {
			*puts++
		}
		if strings.Contains(r.URL.Path, "self-test") || strings.HasSuffix(r.URL.Path, "/identity") {
			return http.DefaultTransport.RoundTrip(r)
		}
		if count++; count != n {
			return http.DefaultTransport.RoundTrip(r)
		}
		if effective {
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				return nil, err
			}
			resp.Body.Close()
		}
		return nil, broken
	})
}

// Every request of every operation is lost in turn, before its effect or after. One further call completes the
// operation, no PUT is repeated without a read, and the ledger has each change once.
func TestS3LostRequestsAndReplies(t *testing.T) {
	endpoint := inMemory(t, nil)
	breaks := []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET}
	for _, effective := range []bool{true, false} {
		for n, lost := 1, true; lost; n++ {
			o := newObjectStore(t, endpoint, false)
			s, broken, puts := storage(1), breaks[n%len(breaks)], 0
			name := fmt.Sprintf("request %d, effective %t, %v", n, effective, broken)
			err := o.open(t, losing(n, effective, broken, &puts)).Create(t.Context(), s)
			lost = err != nil
			if lost {
				class(t, err, provision.ClassTransient, nil)
			}
			if (effective && err != nil) || puts != 1 {
				t.Errorf("create, %s: %v after %d PUTs", name, err, puts)
			}
			must(t, o.open(t, nil).Create(t.Context(), s))
			o.write(t, s, "data", "x")
			puts = 0
			err = o.open(t, losing(n, effective, broken, &puts)).Remove(t.Context(), generation(s, 2))
			if err != nil {
				lost = true
				class(t, err, provision.ClassTransient, nil)
			}
			if puts > 1 {
				t.Errorf("remove, %s: %v after %d PUTs", name, err, puts)
			}
			must(t, o.open(t, nil).Remove(t.Context(), generation(s, 2)))
			expect(t, o.ledger, s, "create delete ")
			if got := o.names(t, s); !slices.Equal(got, []string{"owner"}) {
				t.Errorf("%s: left over %v", name, got)
			}
		}
	}
}

// If a server accepts connections and never answers, each call ends with the caller's deadline.
func TestS3KeepsDeadlines(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	hanging := &objectStore{url: "http://" + l.Addr().String(), bucket: "bucket", ledger: t.TempDir() + "/ledger"}
	o := newObjectStore(t, inMemory(t, nil), false)
	hang := roundTrip(func(r *http.Request) (*http.Response, error) {
		if strings.Contains(r.URL.Path+r.URL.RawQuery, "members") { // the self-test has passed
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	for _, p := range []*provider.S3{hanging.open(t, nil), o.open(t, hang)} {
		for name, call := range map[string]func(context.Context) error{
			"create": func(ctx context.Context) error { return p.Create(ctx, storage(1)) },
			"remove": func(ctx context.Context) error { return p.Remove(ctx, storage(1)) },
			"list":   func(ctx context.Context) error { _, err := p.List(ctx, "", 10); return err },
			"bucket": func(ctx context.Context) error { return hanging.open(t, nil).Prepare(ctx) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			began := time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
				t.Errorf("%s: %v after %s", name, err, time.Since(began))
			}
			cancel()
		}
	}
}

func TestS3ErrorsHaveClasses(t *testing.T) {
	for name, c := range map[string]struct {
		status     int
		code       string
		retryAfter string
		class      provision.Class
		wait       time.Duration
	}{
		"slow down":       {503, "SlowDown", "", provision.ClassThrottled, 0},
		"slow down, wait": {503, "SlowDown", "7", provision.ClassThrottled, 7 * time.Second},
		"too many":        {429, "TooManyRequests", "3", provision.ClassThrottled, 3 * time.Second},
		"too long":        {429, "", "999999999999", provision.ClassThrottled, 5 * time.Minute},
		"backwards":       {429, "", "-5", provision.ClassThrottled, 0},
		"past date":       {429, "", "Mon, 02 Jan 2006 15:04:05 GMT", provision.ClassThrottled, 0},
		"closed":          {503, "ServiceUnavailable", "2", provision.ClassOutage, 2 * time.Second},
		"no text":         {503, "", "", provision.ClassOutage, 0},
		"internal":        {500, "InternalError", "", provision.ClassTransient, 0},
		"gateway":         {502, "", "", provision.ClassOutage, 0},
		"gateway timeout": {504, "", "", provision.ClassOutage, 0},
		"unsupported":     {501, "NotImplemented", "", provision.ClassOutage, 0},
		"denied":          {403, "AccessDenied", "", provision.ClassOutage, 0},
		"wrong key":       {403, "InvalidAccessKeyId", "", provision.ClassOutage, 0},
		"clock":           {403, "RequestTimeTooSkewed", "", provision.ClassOutage, 0},
		"no bucket":       {404, "NoSuchBucket", "", provision.ClassOutage, 0},
		"other region":    {400, "AuthorizationHeaderMalformed", "", provision.ClassOutage, 0},
		"moved":           {307, "TemporaryRedirect", "", provision.ClassOutage, 0},
		"slow upload":     {400, "RequestTimeout", "", provision.ClassTransient, 0},
		"conflict":        {409, "ConditionalRequestConflict", "", provision.ClassTransient, 0},
		"invalid":         {400, "InvalidArgument", "", provision.ClassRejected, 0},
		"too large":       {413, "EntityTooLarge", "", provision.ClassRejected, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := newObjectStore(t, inMemory(t, nil), false)
			answer := roundTrip(func(r *http.Request) (*http.Response, error) {
				if !isMarkerPut(r) {
					return http.DefaultTransport.RoundTrip(r)
				}
				w := httptest.NewRecorder()
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.status)
				if c.code != "" {
					fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", c.code)
				}
				resp := w.Result()
				resp.Request = r
				return resp, nil
			})
			p := o.open(t, answer)
			for _, err := range []error{p.Create(t.Context(), storage(1)), p.Remove(t.Context(), storage(1))} {
				class(t, err, c.class, nil)
				var f *provision.Failure
				if errors.As(err, &f) && f.RetryAfter != c.wait {
					t.Errorf("wait %s", f.RetryAfter)
				}
			}
		})
	}
}

// An identity that could not be read concerns no member more than others.
func TestS3LostIdentityIsAnOutage(t *testing.T) {
	o := newObjectStore(t, inMemory(t, nil), false)
	var lost atomic.Bool
	p := o.open(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/identity") && !lost.Swap(true) {
			return nil, io.ErrUnexpectedEOF
		}
		return http.DefaultTransport.RoundTrip(r)
	}))
	outage(t, "lost", p.Create(t.Context(), storage(1)))
	must(t, p.Create(t.Context(), storage(1)))
}

// A bucket that is deleted and created again, or replaced by another one, is noticed after the first error,
// when a listing ends, before a tombstone, and after some time.
func TestS3BucketIsReplacedWhileItRuns(t *testing.T) {
	o := newObjectStore(t, inMemory(t, nil), false)
	p := o.open(t, nil)
	must(t, p.Create(t.Context(), storage(1)))
	replaced := newObjectStore(t, o.url, false)
	empty := fmt.Sprintf("bucket-%d", buckets.Add(1))
	must(t, o.client.MakeBucket(t.Context(), empty, minio.MakeBucketOptions{}))
	for name, bucket := range map[string]string{
		"another deployment's": replaced.bucket, "made anew": empty, "deleted": "deleted",
	} {
		var away atomic.Bool
		p := o.open(t, roundTrip(func(r *http.Request) (*http.Response, error) {
			if away.Load() { // the name leads to another bucket
				r = r.Clone(r.Context())
				r.URL.Path = strings.Replace(r.URL.Path, o.bucket, bucket, 1)
			}
			return http.DefaultTransport.RoundTrip(r)
		}))
		must(t, p.Create(t.Context(), storage(1)))
		away.Store(true)
		found, err := p.List(t.Context(), "", 10) // while the bucket is trusted
		outage(t, name+", a listing", err)
		if len(found) != 0 {
			t.Errorf("%s: found %v", name, found)
		}
		outage(t, name, everyCall(t, p)...)
		away.Store(false)
		must(t, p.Create(t.Context(), storage(1)))
		away.Store(true)
		outage(t, name+", a tombstone", p.Remove(t.Context(), storage(1)))
		for object := range o.client.ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
			if object.Err == nil && strings.HasPrefix(object.Key, "members/") {
				t.Errorf("%s: created %s", name, object.Key)
			}
		}
	}
}

// While the bucket is trusted, it is replaced between two calls, neither of which fails. Nothing in the wrong
// bucket is reported done or written to the ledger, and the work is done in the right bucket when it is back.
func TestS3BucketIsReplacedWithinSeconds(t *testing.T) {
	o := newObjectStore(t, inMemory(t, nil), false)
	must(t, o.open(t, nil).Create(t.Context(), storage(1)))
	empty := fmt.Sprintf("bucket-%d", buckets.Add(1))
	must(t, o.client.MakeBucket(t.Context(), empty, minio.MakeBucketOptions{}))
	other := newObjectStore(t, o.url, false).bucket
	for i, bucket := range []string{other, empty} {
		name := []string{"another deployment's", "made anew"}[i]
		var away atomic.Bool
		p := o.open(t, roundTrip(func(r *http.Request) (*http.Response, error) {
			if away.Load() {
				r = r.Clone(r.Context())
				r.URL.Path = strings.Replace(r.URL.Path, o.bucket, bucket, 1)
			}
			return http.DefaultTransport.RoundTrip(r)
		}))
		must(t, p.Create(t.Context(), storage(1)))
		s := storage(2 + i)
		for range 2 { // the first call writes the marker, the second finds it
			away.Store(true)
			outage(t, name+", a creation", p.Create(t.Context(), s))
			away.Store(false)
			must(t, p.Create(t.Context(), storage(1))) // the bucket is trusted again
		}
		expect(t, o.ledger, s, "")
		away.Store(true)
		outage(t, name+", a removal", p.Remove(t.Context(), s))
		away.Store(false)
		must(t, p.Create(t.Context(), s))
		expect(t, o.ledger, s, "create ")
	}
}

// One read of the identity is enough for all changes that were made before it.
func TestS3ChangesShareTheirConfirmation(t *testing.T) {
	o := newObjectStore(t, inMemory(t, nil), false)
	var looks, puts atomic.Int32
	all := make(chan struct{})
	const many = 16
	p := o.open(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if isMarkerPut(r) {
			if puts.Add(1) == many {
				close(all)
			}
			<-all
		}
		if strings.HasSuffix(r.URL.Path, "/identity") {
			looks.Add(1)
		}
		return resp, err
	}))
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			if err := p.Create(t.Context(), storage(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := looks.Load(); n < 2 || n > many/2 {
		t.Errorf("%d reads of the identity for %d concurrent creations", n, many)
	}
}

// A provider that cannot be reached is unavailable for sharedErrors.
func TestS3UnreachableIsAnOutage(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(nil)
	t.Cleanup(plain.Close)
	secret := httptest.NewUnstartedServer(nil)
	secret.Config.ErrorLog = log.New(io.Discard, "", 0)
	secret.StartTLS() // with a certificate that nobody trusts
	t.Cleanup(secret.Close)
	for _, url := range []string{closed.URL, "http://no-such-host.invalid", "https" + plain.URL[len("http"):],
		secret.URL} {
		o := &objectStore{url: url, bucket: "bucket", ledger: t.TempDir() + "/ledger"}
		class(t, o.open(t, nil).Create(t.Context(), storage(1)), provision.ClassOutage, nil)
		class(t, o.open(t, nil).Prepare(t.Context()), provision.ClassOutage, nil)
	}
	missing := newObjectStore(t, inMemory(t, nil), false)
	missing.bucket = "missing"
	class(t, missing.open(t, nil).Create(t.Context(), storage(1)), provision.ClassOutage, nil)
	_, err := missing.open(t, nil).List(t.Context(), "", 1)
	class(t, err, provision.ClassOutage, nil)
}
