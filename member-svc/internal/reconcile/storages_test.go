package reconcile_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/reconcile"
)

const token = "secret"

// storages is a fake of the Storage service's internal listener.
type storages struct {
	*httptest.Server
	mu     sync.Mutex
	rows   map[string]reconcile.Storage
	before func(path string) int // called first; a status other than 0 is the answer
}

func newStorages(t *testing.T) *storages {
	t.Helper()
	s := &storages{rows: map[string]reconcile.Storage{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *storages) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	status := 0
	if before != nil {
		status = before(r.URL.Path)
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		status = http.StatusUnauthorized
	}
	if status != 0 {
		http.Error(w, "{}", status)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, one := strings.CutPrefix(r.URL.Path, "/v1/storages/")
	if one {
		row, ok := s.rows[id]
		if !ok {
			http.Error(w, `{"code":"not_found"}`, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(row)
		return
	}
	const size = 2 // pages are shorter than requested: only the cursor counts
	ids := slices.Sorted(maps.Keys(s.rows))
	ids = ids[sortedAfter(ids, r.URL.Query().Get("cursor")):]
	page := map[string]any{}
	if len(ids) > size {
		ids = ids[:size]
		page["next_cursor"] = ids[size-1]
	}
	items := []reconcile.Storage{}
	for _, id := range ids {
		items = append(items, s.rows[id])
	}
	page["items"] = items
	_ = json.NewEncoder(w).Encode(page)
}

func sortedAfter(ids []string, cursor string) int {
	i, found := slices.BinarySearch(ids, cursor)
	if found {
		i++
	}
	return i
}

func (s *storages) put(memberID, sagaID string, generation int64, desired, status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[memberID] = reconcile.Storage{MemberStorage: wire.MemberStorage{
		MemberID: memberID, SagaID: sagaID, Generation: generation, Desired: desired, Status: status,
	}}
}

func (s *storages) hook(before func(path string) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}
