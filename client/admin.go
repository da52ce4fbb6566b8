package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// WithdrawNeedsAttention is a state of a saga; to the member it is [Withdrawing].
const WithdrawNeedsAttention = "withdraw_needs_attention"

// Admin calls the admin listener of member-svc. Safe for concurrent use.
type Admin struct{ caller }

// NewAdmin returns a client of the listener at base with an admin token. A nil
// http.Client is http.DefaultClient, which waits for as long as the context does.
func NewAdmin(base, token string, h *http.Client) *Admin { return &Admin{newCaller(base, token, h)} }

// Saga is a signup as operators see it.
type Saga struct {
	SagaID        string     `json:"saga_id"`
	MemberID      string     `json:"member_id"`
	SignupID      string     `json:"signup_id"`
	Username      *string    `json:"username"` // nil once the member has left
	Plan          string     `json:"plan"`
	State         string     `json:"state"`
	Step          string     `json:"step"` // that is asked for, or was last
	Delayed       bool       `json:"delayed"`
	Generation    int64      `json:"generation"` // of the newest command
	Version       int64      `json:"version"`    // transitions so far
	Attempts      int        `json:"attempts"`   // times that the newest command was sent
	RetryOpen     bool       `json:"retry_open"` // the newest command is an operator's retry
	LastError     *Cause     `json:"last_error"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	CreatedAt     time.Time  `json:"created_at"`
	UpdatedAt     time.Time  `json:"updated_at"`
	TraceID       *string    `json:"trace_id"`           // of the newest command, for OpenTelemetry; nil if it was not traced
	Timeline      []Moment   `json:"timeline,omitempty"` // oldest first; of [Admin.Saga] only
}

// Moment is something that happened to a saga.
type Moment struct {
	At         time.Time `json:"at"`
	Kind       string    `json:"kind"`
	State      string    `json:"state"`
	Generation int64     `json:"generation"`
	Attempt    int       `json:"attempt"`
	Detail     string    `json:"detail"`
	Actor      string    `json:"actor"`
}

// SagaFilter selects sagas; zero values select all.
type SagaFilter struct {
	State                       string
	Delayed                     *bool
	Plan                        string
	Error                       string // fingerprint of the error for which they need attention
	Username                    string
	MemberID                    string
	CreatedAfter, CreatedBefore time.Time
}

// Sagas lists sagas, newest first. A page may be short of items, and yet have a next.
func (a *Admin) Sagas(ctx context.Context, f SagaFilter, part PageOf) (page Page[Saga], err error) {
	q := part.values()
	set(q, "state", f.State)
	set(q, "plan", f.Plan)
	set(q, "error", f.Error)
	set(q, "username", f.Username)
	set(q, "member_id", f.MemberID)
	if f.Delayed != nil {
		q.Set("delayed", strconv.FormatBool(*f.Delayed))
	}
	if !f.CreatedAfter.IsZero() {
		q.Set("created_after", f.CreatedAfter.Format(time.RFC3339Nano))
	}
	if !f.CreatedBefore.IsZero() {
		q.Set("created_before", f.CreatedBefore.Format(time.RFC3339Nano))
	}
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/sagas", query: q, into: &page})
	return page, err
}

// Saga returns a saga with its timeline.
func (a *Admin) Saga(ctx context.Context, id string) (s Saga, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/sagas/" + url.PathEscape(id), into: &s})
	return s, err
}

// Act is an operator's wish.
type Act struct {
	Reason  string // wanted, and kept
	Version int64  // of the saga that the operator has seen; 0 for whichever it is now
}

// Retry asks for what a saga wants once more.
func (a *Admin) Retry(ctx context.Context, id string, act Act) (Saga, error) {
	return a.act(ctx, id, "retry", act)
}

// Cancel ends a membership on behalf of the member.
func (a *Admin) Cancel(ctx context.Context, id string, act Act) (Saga, error) {
	return a.act(ctx, id, "cancel", act)
}

func (a *Admin) act(ctx context.Context, id, verb string, act Act) (s Saga, err error) {
	r := call{method: http.MethodPost, path: "/admin/v1/sagas/" + url.PathEscape(id) + "/" + verb, body: map[string]string{"reason": act.Reason}, into: &s}
	if act.Version != 0 {
		r.header = http.Header{"If-Match": {strconv.Quote(strconv.FormatInt(act.Version, 10))}}
	}
	_, err = a.do(ctx, r)
	return s, err
}
