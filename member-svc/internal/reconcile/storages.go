package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service/reconcile"
)

const requestTimeout = 5 * time.Second

// Storage is what a participant has of one member, as its internal listener shows it.
type Storage struct {
	wire.MemberStorage
	step int
}

// Key implements reconcile.Keyed.
func (s Storage) Key() string { return key(s.MemberID, s.step) }

// given reports whether the member has the storage or will have it soon.
func (s *Storage) given() bool {
	return s != nil && s.Desired == "present" && s.Status != "rejected"
}

// left reports whether a storage is left that is not being removed.
func (s *Storage) left() bool {
	return s != nil && (s.Desired == "present" || s.Status == "rejected")
}

func (s *Storage) describe() string {
	if s == nil {
		return "missing"
	}
	return fmt.Sprintf("desired %s, status %s", s.Desired, s.Status)
}

// Storages is a client of the Storage service, or of another participant whose internal listener has the same
// calls. It is safe for concurrent use.
type Storages struct{ service *client.Storage }

// NewStorages returns a client of the internal listener at baseURL. It does not connect yet.
func NewStorages(baseURL, token string) *Storages {
	return &Storages{client.NewStorage(baseURL, token, &http.Client{Timeout: requestTimeout})}
}

// get returns the member's storage, or nil. A 404 from another program at the same address is an error.
func (s *Storages) get(ctx context.Context, memberID string, step int) (*Storage, error) {
	found, err := s.service.Get(ctx, memberID)
	var p *wire.Problem
	switch {
	case errors.As(err, &p) && p.Status == http.StatusNotFound && p.Code == "not_found":
		return nil, nil
	case err != nil:
		return nil, explain(err)
	case found.MemberID != memberID:
		return nil, errors.New("storage service: the answer is about another member")
	}
	return &Storage{found, step}, nil
}

// explain adds what to do if the configuration is to blame.
func explain(err error) error {
	var p *wire.Problem
	// After several wrong tokens, all tokens are refused for a while.
	if errors.As(err, &p) && (p.Status == http.StatusUnauthorized || p.Status == http.StatusTooManyRequests) {
		return fmt.Errorf("storage service: set STORAGE_CLIENT_TOKEN to its STORAGE_TOKEN: %w", err)
	}
	return fmt.Errorf("storage service: %w", err)
}

// lists returns what all participants have, in the order of the keys.
func (r *Reconciler) lists() reconcile.Pages[Storage] {
	var all []reconcile.Pages[Storage]
	for step, p := range r.participants {
		if p != nil {
			all = append(all, p.list(step))
		}
	}
	return reconcile.Join(all...)
}

// list returns everything that one participant has, in the order of the members' ids.
func (s *Storages) list(step int) reconcile.Pages[Storage] {
	part, more := client.PageOf{Limit: pageSize}, true
	return func(ctx context.Context, _ string) ([]Storage, error) {
		if !more {
			return nil, nil
		}
		page, err := s.service.List(ctx, part)
		if err != nil {
			return nil, explain(err)
		}
		part.Cursor, more = page.NextCursor, page.NextCursor != ""
		found := make([]Storage, len(page.Items))
		for i, item := range page.Items {
			found[i] = Storage{item, step}
		}
		return found, nil
	}
}
