package reconcile

import (
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

	"github.com/signup-saga/signup-saga/service/drift"
)

const (
	requestTimeout = 5 * time.Second
	answerLimit    = 4 << 20
)

// Storage is one member's storage as the Storage service tells of it.
type Storage struct {
	MemberID   string `json:"member_id"`
	SagaID     string `json:"saga_id"`
	Generation int64  `json:"generation"`
	Desired    string `json:"desired"` // present, absent
	Status     string `json:"status"`  // pending, ready, absent, rejected
}

// Key implements drift.Keyed.
func (s Storage) Key() string { return s.MemberID }

// given reports whether the member has it, or will have it soon.
func (s *Storage) given() bool {
	return s != nil && s.Desired == "present" && s.Status != "rejected"
}

// left reports whether something is left of it that nobody is about to remove.
func (s *Storage) left() bool {
	return s != nil && (s.Desired == "present" || s.Status == "rejected")
}

func (s *Storage) describe() string {
	if s == nil {
		return "missing"
	}
	return fmt.Sprintf("wanted %s, is %s", s.Desired, s.Status)
}

// Storages asks the Storage service. Safe for concurrent use.
type Storages struct {
	url, token string
	client     *http.Client
}

// NewStorages returns a client of the internal listener at baseURL. It connects to
// nothing.
func NewStorages(baseURL, token string) *Storages {
	return &Storages{strings.TrimRight(baseURL, "/"), token, &http.Client{Timeout: requestTimeout}}
}

// errNoStorage: the service answers, and has no such storage.
var errNoStorage = errors.New("no such storage")

// get returns the member's storage, or nil.
func (s *Storages) get(ctx context.Context, memberID string) (*Storage, error) {
	var found Storage
	err := s.call(ctx, "/v1/storages/"+url.PathEscape(memberID), &found)
	if errors.Is(err, errNoStorage) {
		return nil, nil
	}
	if err == nil && found.MemberID != memberID {
		err = errors.New("storage service: the answer is about another member")
	}
	return &found, err
}

// list returns all storages in the order of their members' ids.
func (s *Storages) list() drift.Pages[Storage] {
	cursor, more := "", true
	return func(ctx context.Context, _ string) ([]Storage, error) {
		if !more {
			return nil, nil
		}
		var page struct {
			Items      []Storage `json:"items"`
			NextCursor string    `json:"next_cursor"`
		}
		query := url.Values{"limit": {strconv.Itoa(pageSize)}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		if err := s.call(ctx, "/v1/storages?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		cursor, more = page.NextCursor, page.NextCursor != ""
		return page.Items, nil
	}
}

func (s *Storages) call(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return fmt.Errorf("storage service: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("storage service: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	switch {
	case err != nil:
		return fmt.Errorf("storage service: %w", err)
	case resp.StatusCode == http.StatusOK:
		if err := json.Unmarshal(body, into); err != nil {
			return fmt.Errorf("storage service: %w", err)
		}
		return nil
	case resp.StatusCode == http.StatusNotFound && notFound(body):
		return errNoStorage
	default:
		return fmt.Errorf("storage service: answered %s", resp.Status)
	}
}

// notFound reports whether this is a problem of the Storage service, and not the 404
// of somebody else at the same address.
func notFound(body []byte) bool {
	var problem struct{ Code string }
	return json.Unmarshal(body, &problem) == nil && problem.Code == "not_found"
}
