package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Admin calls the admin listener of member-svc. Safe for concurrent use.
type Admin struct{ caller }

// NewAdmin returns a client of the listener at base with an admin token. If h is nil, it uses
// http.DefaultClient, which has no timeout but the context's.
func NewAdmin(base, token string, h *http.Client) *Admin { return &Admin{newCaller(base, token, h)} }

// SagaFilter selects signups; zero values select all.
type SagaFilter struct {
	State                       string    // as in wire.Saga
	Delayed                     *bool     // nil selects both
	Plan                        string    // free, plus or pro
	Error                       string    // fingerprint of the error for which they need attention
	Username                    string    // in any spelling that counts as the same
	MemberID                    string    // UUID
	CreatedAfter, CreatedBefore time.Time // exclusive
}

// Sagas lists signups, newest first. A page may have fewer items than its limit and still have a next one.
func (a *Admin) Sagas(ctx context.Context, f SagaFilter, part PageOf) (page wire.Page[wire.Saga], err error) {
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

// Saga returns a signup with its timeline.
func (a *Admin) Saga(ctx context.Context, id string) (s wire.Saga, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/sagas/" + url.PathEscape(id), into: &s})
	return s, err
}

// Act is what an operator adds to an action on a signup.
type Act struct {
	Reason  string // required, and kept
	Version int64  // that the operator has seen of the signup; 0 for any
}

// Retry orders another try of the step for which a signup needs attention.
func (a *Admin) Retry(ctx context.Context, id string, act Act) (wire.Saga, error) {
	return a.act(ctx, id, "retry", act)
}

// Cancel withdraws a signup on behalf of the member.
func (a *Admin) Cancel(ctx context.Context, id string, act Act) (wire.Saga, error) {
	return a.act(ctx, id, "cancel", act)
}

func (a *Admin) act(ctx context.Context, id, verb string, act Act) (s wire.Saga, err error) {
	r := call{method: http.MethodPost, path: "/admin/v1/sagas/" + url.PathEscape(id) + "/" + verb,
		body: map[string]string{"reason": act.Reason}, into: &s}
	if act.Version != 0 {
		r.header = http.Header{"If-Match": {strconv.Quote(strconv.FormatInt(act.Version, 10))}}
	}
	_, err = a.do(ctx, r)
	return s, err
}
