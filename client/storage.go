package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Storage calls the listener of storage-svc. Safe for concurrent use.
type Storage struct{ caller }

// NewStorage returns a client of the listener at base with the service token. A nil
// http.Client is http.DefaultClient, which waits for as long as the context does.
func NewStorage(base, token string, h *http.Client) *Storage {
	return &Storage{newCaller(base, token, h)}
}

// Page is a part of a list.
type Page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"` // "" on the last page
}

// PageOf says which part: the first Limit items after Cursor. Zero values are the
// beginning and the service's default.
type PageOf struct {
	Cursor string
	Limit  int
}

func (p PageOf) values() url.Values {
	q := url.Values{}
	set(q, "cursor", p.Cursor)
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

// MemberStorage is a storage as storage-svc sees it.
type MemberStorage struct {
	MemberID       string     `json:"member_id"`
	SagaID         string     `json:"saga_id"`
	Generation     int64      `json:"generation"`
	Desired        string     `json:"desired"` // present or absent
	Status         string     `json:"status"`  // pending, ready, absent or rejected
	QuotaBytes     int64      `json:"quota_bytes"`
	Attempts       int        `json:"attempts"`
	OutageAttempts int        `json:"outage_attempts"`
	NextAttemptAt  *time.Time `json:"next_attempt_at,omitempty"`
	LastError      *Cause     `json:"last_error,omitempty"`
	Version        int64      `json:"version"`
	CreatedAt      time.Time  `json:"created_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
}

// Cause is why an attempt failed.
type Cause struct {
	Class       string `json:"class"`
	Message     string `json:"message"`
	Fingerprint string `json:"fingerprint"` // equal for errors of one kind
}

// List returns storages by member.
func (s *Storage) List(ctx context.Context, part PageOf) (page Page[MemberStorage], err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/storages", query: part.values(), into: &page})
	return page, err
}

// Get returns a member's storage.
func (s *Storage) Get(ctx context.Context, memberID string) (storage MemberStorage, err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/storages/" + url.PathEscape(memberID), into: &storage})
	return storage, err
}

// DeadLetter is a message that could not be applied.
type DeadLetter struct {
	ID         string          `json:"id"`
	Subject    string          `json:"subject"`
	SagaID     *string         `json:"saga_id,omitempty"`
	Generation int64           `json:"generation,omitempty"`
	Reason     string          `json:"reason"`
	Headers    json.RawMessage `json:"headers"`
	Body       string          `json:"body"` // its first KiB
	BodyBytes  int             `json:"body_bytes"`
	Seen       int64           `json:"seen"` // times that it came
	FirstSeen  time.Time       `json:"first_seen"`
	LastSeen   time.Time       `json:"last_seen"`
}

// DeadLetters returns dead letters, newest first.
func (s *Storage) DeadLetters(ctx context.Context, part PageOf) (page Page[DeadLetter], err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/dead-letters", query: part.values(), into: &page})
	return page, err
}

// Requeue applies a dead letter's message as if it had just come.
func (s *Storage) Requeue(ctx context.Context, id string) error {
	_, err := s.do(ctx, call{method: http.MethodPost, path: "/v1/dead-letters/" + url.PathEscape(id) + "/requeue"})
	return err
}

// Fault is how the provider misbehaves, for demonstrations and tests.
type Fault struct {
	Mode        string  `json:"mode"`        // none, outage, slow, flaky, reject, hang or throttle
	Probability float64 `json:"probability"` // of each call, 0 to 1
	LatencyMS   int     `json:"latency_ms"`  // for slow and throttle, milliseconds
}

// Fault returns the setting.
func (s *Storage) Fault(ctx context.Context) (f Fault, err error) {
	_, err = s.do(ctx, call{method: http.MethodGet, path: "/v1/faults", into: &f})
	return f, err
}

// SetFault changes the setting. When it returns, every replica goes by it.
func (s *Storage) SetFault(ctx context.Context, f Fault) error {
	_, err := s.do(ctx, call{method: http.MethodPut, path: "/v1/faults", body: f})
	return err
}
