package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Storage calls the listener of storage-svc. Safe for concurrent use.
type Storage struct{ caller }

// NewStorage returns a client of the listener at base with the service token. If h is nil, it uses
// http.DefaultClient, which has no timeout but the context's.
func NewStorage(base, token string, h *http.Client) *Storage {
	return &Storage{newCaller(base, token, h)}
}

// PageOf selects a page of a list: the first Limit items after Cursor. Zero values are the beginning and the
// service's default.
type PageOf struct {
	Cursor wire.Cursor // of the previous page
	Limit  int         // items
}

func (p PageOf) values() url.Values {
	q := url.Values{}
	set(q, "cursor", string(p.Cursor))
	if p.Limit != 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	return q
}

func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

// List returns storages in the order of their members' ids.
func (s *Storage) List(ctx context.Context, part PageOf) (page wire.Page[wire.MemberStorage], err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/storages", query: part.values(), into: &page})
	return page, err
}

// Get returns a member's storage.
func (s *Storage) Get(ctx context.Context, memberID string) (storage wire.MemberStorage, err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/storages/" + url.PathEscape(memberID), into: &storage})
	return storage, err
}

// DeadLetters returns dead letters, newest first.
func (s *Storage) DeadLetters(ctx context.Context, part PageOf) (page wire.Page[wire.DeadLetter], err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/dead-letters", query: part.values(), into: &page})
	return page, err
}

// Requeue applies a dead letter's message as if it had just been delivered.
func (s *Storage) Requeue(ctx context.Context, id string) error {
	_, err := s.do(ctx, call{method: http.MethodPost, path: "/v1/dead-letters/" + url.PathEscape(id) + "/requeue"})
	return err
}

// Fault returns how the provider is made to fail.
func (s *Storage) Fault(ctx context.Context) (f wire.Fault, err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/faults", into: &f})
	return f, err
}

// SetFault changes how the provider is made to fail. When it returns, every replica uses the new setting.
func (s *Storage) SetFault(ctx context.Context, f wire.Fault) error {
	_, err := s.do(ctx, call{method: http.MethodPut, path: "/v1/faults", body: f})
	return err
}
