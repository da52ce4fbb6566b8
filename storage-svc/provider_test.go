package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
)

// s3Environment is [environment] with an object store instead of a directory.
func s3Environment(t *testing.T, natsURL string, wrap func(http.Handler) http.Handler) map[string]string {
	t.Helper()
	handler := gofakes3.New(s3mem.New(), gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	if wrap != nil {
		handler = wrap(handler)
	}
	store := httptest.NewServer(handler)
	t.Cleanup(store.Close)
	vars := environment(t, natsURL)
	delete(vars, "PROVIDER_DIR")
	maps.Copy(vars, map[string]string{
		"PROVIDER": "s3", "S3_ENDPOINT": store.URL, "S3_BUCKET": "storages", "S3_ACCESS_KEY": "access",
		"S3_SECRET_KEY": "secret",
	})
	return vars
}

// Migrate creates the bucket, and the service keeps storages in it.
func TestStoragesInABucket(t *testing.T) {
	server := testenv.NATS(t)
	vars := s3Environment(t, server.URL, nil)
	migrated(t, vars)
	migrated(t, vars)
	start(t, vars)
	m := newMemberService(t, server.URL)
	m.send(contract.StorageProvision, storageCommand(1))
	m.expect(contract.StorageProvisioned, 1)
	m.send(contract.StorageDeprovision, storageCommand(2))
	m.expect(contract.StorageDeprovisioned, 2)
	ledger, err := os.ReadFile(vars["PROVIDER_LEDGER"])
	if err != nil || strings.Count(string(ledger), `"create"`) != 1 || strings.Count(string(ledger), `"delete"`) != 1 {
		t.Errorf("ledger %s, %v", ledger, err)
	}
}

// An object store that is not there yet is not a problem: migrate waits for it, and the service takes commands
// and uses up no attempts.
func TestObjectStoreIsWaitedFor(t *testing.T) {
	server := testenv.NATS(t)
	var there atomic.Bool
	vars := s3Environment(t, server.URL, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if there.Load() {
				next.ServeHTTP(w, r)
				return
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		})
	})
	ended := make(chan error, 1)
	go func() {
		ended <- run(t.Context(), []string{"migrate"}, func(name string) string { return vars[name] }, io.Discard)
	}()
	p := start(t, vars)
	m := newMemberService(t, server.URL)
	m.send(contract.StorageProvision, storageCommand(1))
	testenv.Eventually(t, 20*time.Second, "an attempt without a store", func() bool {
		_, answer := p.call("GET", "/v1/storages/"+member, "")
		return strings.Contains(answer, `"status":"pending"`) && strings.Contains(answer, `"attempts":0`) &&
			strings.Contains(answer, `"class":"outage"`)
	})
	select {
	case err := <-ended:
		t.Fatalf("migrate ended without a store: %v", err)
	default:
	}
	there.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	m.expect(contract.StorageProvisioned, 1)
}

func TestAStoreWithoutConditionsIsRefused(t *testing.T) {
	server := testenv.NATS(t)
	vars := s3Environment(t, server.URL, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("If-None-Match")
			next.ServeHTTP(w, r)
		})
	})
	migrated(t, vars)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // in case it starts after all
	defer cancel()
	err := run(ctx, []string{"serve"}, func(name string) string { return vars[name] }, io.Discard)
	if !errors.Is(err, provider.ErrUnconditional) {
		t.Errorf("err = %v", err)
	}
}

func TestObjectStoreConfigurationIsChecked(t *testing.T) {
	for _, command := range []string{"serve", "migrate"} {
		vars := map[string]string{
			"PROVIDER": "s3", "S3_ENDPOINT": "localhost:9000", "STORAGE_TOKEN": token,
			"STORAGE_DATABASE_URL": "postgres://nowhere",
		}
		err := run(t.Context(), []string{command}, func(name string) string { return vars[name] }, io.Discard)
		if err == nil {
			t.Fatal("no error")
		}
		for _, want := range []string{"S3_ENDPOINT", "S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY"} {
			if strings.Count(err.Error(), want+":") != 1 {
				t.Errorf("%s: %s not exactly once in:\n%v", command, want, err)
			}
		}
		if strings.Contains(err.Error(), "PROVIDER_DIR") {
			t.Errorf("a directory is wanted: %v", err)
		}
		vars["PROVIDER"] = "ftp"
		if err := run(t.Context(), []string{command}, func(name string) string { return vars[name] },
			io.Discard); err == nil || !strings.Contains(err.Error(), "PROVIDER:") {
			t.Errorf("%s: %v", command, err)
		}
	}
}
