package provider_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	accessKey = "access-key"
	secretKey = "secret-key"
)

// objectStore is a bucket of its own in a server that speaks S3.
type objectStore struct {
	url, bucket, ledger string
	known               *identities
	given               *provider.Ledger // nil: one in the file named ledger
	client              *minio.Client    // for access without the provider
}

var buckets atomic.Int64

func newObjectStore(t *testing.T, endpoint string, versions bool) *objectStore {
	t.Helper()
	u, err := url.Parse(endpoint)
	must(t, err)
	client, err := minio.New(u.Host,
		&minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Region: "us-east-1"})
	must(t, err)
	o := &objectStore{
		url: endpoint, bucket: fmt.Sprintf("bucket-%d", buckets.Add(1)), client: client,
		ledger: filepath.Join(t.TempDir(), "ledger"), known: new(identities),
	}
	for range 2 {
		_, err := provider.Identify(t.Context(), o.open(t, nil), o.known, false)
		must(t, err)
	}
	if versions {
		must(t, client.EnableVersioning(t.Context(), o.bucket))
	}
	return o
}

// inMemory starts a server that keeps objects in memory. wrap may put a handler before it.
func inMemory(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	return serve(t, s3mem.New(), wrap)
}

func serve(t *testing.T, objects gofakes3.Backend, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	handler := gofakes3.New(objects, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	if wrap != nil {
		handler = wrap(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// open opens the provider as another process would, over transport if it is not nil.
func (o *objectStore) open(t *testing.T, transport http.RoundTripper) *provider.S3 {
	t.Helper()
	ledger := o.given
	if ledger == nil {
		ledger = newLedger(t, o.ledger)
	}
	p, err := provider.NewS3(provider.S3Config{
		Endpoint: o.url, Bucket: o.bucket, Region: "us-east-1", AccessKey: accessKey, SecretKey: secretKey,
		Transport: transport,
	}, o.known, ledger)
	must(t, err)
	return p
}

func folderOf(s provision.Storage) string { return "members/" + s.MemberID + "/" }

func (o *objectStore) write(t *testing.T, s provision.Storage, name, content string) {
	t.Helper()
	_, err := o.client.PutObject(t.Context(), o.bucket, folderOf(s)+name, strings.NewReader(content),
		int64(len(content)), minio.PutObjectOptions{})
	must(t, err)
}

// names lists the objects, including those of which only old versions are left.
func (o *objectStore) names(t *testing.T, s provision.Storage) (names []string) {
	t.Helper()
	for _, versions := range []bool{false, true} {
		options := minio.ListObjectsOptions{Prefix: folderOf(s), Recursive: true, WithVersions: versions}
		for object := range o.client.ListObjectsIter(t.Context(), o.bucket, options) {
			must(t, object.Err)
			names = append(names, strings.TrimPrefix(object.Key, folderOf(s)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (o *objectStore) identify(t *testing.T, content string) {
	t.Helper()
	must(t, o.client.RemoveObject(t.Context(), o.bucket, "identity", minio.RemoveObjectOptions{}))
	if content != "" {
		_, err := o.client.PutObject(t.Context(), o.bucket, "identity", strings.NewReader(content), int64(len(content)),
			minio.PutObjectOptions{})
		must(t, err)
	}
}

func (o *objectStore) unmark(t *testing.T, s provision.Storage) {
	t.Helper()
	options := minio.ListObjectsOptions{Prefix: folderOf(s) + "owner", WithVersions: true}
	for object := range o.client.ListObjectsIter(t.Context(), o.bucket, options) {
		version := strings.ReplaceAll(object.VersionID, "null", "") // for the server in memory
		must(t, object.Err, o.client.RemoveObject(t.Context(), o.bucket, object.Key,
			minio.RemoveObjectOptions{VersionID: version}))
	}
}

func (o *objectStore) place() place {
	return place{
		open: func(t *testing.T) provision.Provider { return o.open(t, nil) }, ledger: o.ledger,
		known: o.known, identify: o.identify,
		write: o.write, names: o.names, unmark: o.unmark,
	}
}

func TestS3Conforms(t *testing.T) {
	endpoint := inMemory(t, nil)
	for _, versions := range []bool{false, true} {
		t.Run(fmt.Sprintf("versions %t", versions), func(t *testing.T) {
			conforms(t, func(t *testing.T) place { return newObjectStore(t, endpoint, versions).place() })
		})
	}
}

func TestS3RemovesMoreDataThanOnePage(t *testing.T) {
	objects := s3mem.New()
	o := newObjectStore(t, serve(t, objects, nil), false)
	p, s := o.open(t, nil), storage(1)
	must(t, p.Create(t.Context(), s))
	for i := range 1100 {
		_, err := objects.PutObject(o.bucket, fmt.Sprintf("%sphotos/%d", folderOf(s), i), map[string]string{},
			strings.NewReader("x"), 1, nil)
		must(t, err)
	}
	must(t, p.Remove(t.Context(), s))
	if got := o.names(t, s); !slices.Equal(got, []string{"owner"}) {
		t.Errorf("%d objects left", len(got))
	}
}

// An object that vanishes between the list and the read, or an empty directory that a store on top of a file
// system lists, counts as nothing and does not end the listing.
func TestS3ListsNothingForNothing(t *testing.T) {
	o := newObjectStore(t, inMemory(t, nil), false)
	vanishing, last := storage(1), storage(2)
	o.write(t, vanishing, "data", "x")
	must(t, o.open(t, nil).Create(t.Context(), last))
	p := o.open(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, vanishing.MemberID+"/owner") {
			must(t, o.client.RemoveObject(r.Context(), o.bucket, folderOf(vanishing)+"data",
				minio.RemoveObjectOptions{}))
		}
		return http.DefaultTransport.RoundTrip(r)
	}))
	found, err := p.List(t.Context(), "", 1)
	want := []provision.Resource{{MemberID: last.MemberID, State: provision.ResourceLive, Generation: 1, QuotaBytes: 7}}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%v, %v", found, err)
	}
}

// If a store reports deletions that it did not make, that costs the worker an attempt, but does not block it.
func TestS3DeletionsHaveToBeTrue(t *testing.T) {
	o := newObjectStore(t, inMemory(t, nil), false)
	s := storage(1)
	must(t, o.open(t, nil).Create(t.Context(), s))
	o.write(t, s, "data", "x")
	lying := o.open(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodPost {
			return http.DefaultTransport.RoundTrip(r)
		}
		w := httptest.NewRecorder()
		fmt.Fprintf(w, "<DeleteResult><Deleted><Key>%sdata</Key></Deleted></DeleteResult>", folderOf(s))
		resp := w.Result()
		resp.Request = r
		return resp, nil
	}))
	class(t, lying.Remove(t.Context(), s), provision.ClassTransient, nil)
	expect(t, o.ledger, s, "create delete ")
	must(t, o.open(t, nil).Remove(t.Context(), s))
}

// A store that ignores conditions would give one storage to two creators.
func TestS3RefusesAStoreWithoutConditions(t *testing.T) {
	for _, header := range []string{"If-None-Match", "If-Match"} {
		o := newObjectStore(t, inMemory(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del(header)
				next.ServeHTTP(w, r)
			})
		}), false)
		p, s := o.open(t, nil), storage(1)
		_, listErr := p.List(t.Context(), "", 1)
		for _, err := range []error{p.Check(t.Context()), p.Create(t.Context(), s), p.Remove(t.Context(), s), listErr} {
			class(t, err, provision.ClassOutage, provider.ErrUnconditional)
		}
		if got := o.names(t, s); len(got) != 0 {
			t.Errorf("without %s: %v", header, got)
		}
	}
}

func TestS3RefusesStrangeEndpoints(t *testing.T) {
	for _, endpoint := range []string{"", "localhost:9000", "ftp://localhost", "http://", "http://x/path"} {
		if p, err := provider.NewS3(provider.S3Config{Endpoint: endpoint, Bucket: "b"}, nil, nil); err == nil {
			t.Errorf("%q: %v", endpoint, p)
		}
	}
}

// roundTrip is a transport with a fault.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// isMarkerPut reports whether a request writes a member's marker.
func isMarkerPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/owner")
}

// pausing returns a transport that stops the first PUT of a marker, before the server sees it or after. It then
// closes reached, and continues when resume is closed.
func pausing(before bool, reached chan<- struct{}, resume <-chan struct{}) http.RoundTripper {
	var first atomic.Bool
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		if !isMarkerPut(r) || !first.CompareAndSwap(false, true) {
			return http.DefaultTransport.RoundTrip(r)
		}
		if before {
			close(reached)
			<-resume
			return http.DefaultTransport.RoundTrip(r)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		close(reached)
		<-resume
		return resp, err
	})
}

// A worker is suspended past its lease, before its PUT or after it, and resumes after the withdrawal: the
// storage does not come back, and the ledger shows what happened.
func TestS3SleeperWakesAfterTheRemoval(t *testing.T) {
	for _, before := range []bool{true, false} {
		o := newObjectStore(t, inMemory(t, nil), false)
		s, reached, resume, ended := storage(1), make(chan struct{}), make(chan struct{}), make(chan error, 1)
		sleeper := o.open(t, pausing(before, reached, resume))
		go func() { ended <- sleeper.Create(context.WithoutCancel(t.Context()), s) }()
		<-reached
		must(t, o.open(t, nil).Remove(t.Context(), generation(s, 2)))
		close(resume)
		want := "create delete "
		if err := <-ended; before {
			rejected(t, err, provision.ErrTombstoned)
			want = ""
		} else if err != nil { // it was created once; only the version of the row shows that it is gone
			t.Error(err)
		}
		expect(t, o.ledger, s, want)
		rejected(t, o.open(t, nil).Create(t.Context(), s), provision.ErrTombstoned)
	}
}

// Of two removals that found the storage alive, only one has an effect.
func TestS3SleepingRemovalChangesNothing(t *testing.T) {
	o := newObjectStore(t, inMemory(t, nil), false)
	s, reached, resume, ended := storage(1), make(chan struct{}), make(chan struct{}), make(chan error, 1)
	must(t, o.open(t, nil).Create(t.Context(), s))
	sleeper := o.open(t, pausing(true, reached, resume))
	go func() { ended <- sleeper.Remove(context.WithoutCancel(t.Context()), generation(s, 2)) }()
	<-reached
	must(t, o.open(t, nil).Remove(t.Context(), generation(s, 3)))
	close(resume)
	must(t, <-ended)
	found, err := o.open(t, nil).List(t.Context(), "", 1)
	want := []provision.Resource{{MemberID: s.MemberID, State: provision.ResourceTombstone, Generation: 3}}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%v, %v", found, err)
	}
	expect(t, o.ledger, s, "create delete ")
}
