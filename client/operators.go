package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Overview returns the state of the service.
func (a *Admin) Overview(ctx context.Context) (o wire.Overview, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/overview", into: &o})
	return o, err
}

// Failures lists up to limit groups of failures (0: the service's default).
func (a *Admin) Failures(ctx context.Context, limit int) (f wire.Failures, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/failures", query: PageOf{Limit: limit}.values(),
		into: &f})
	return f, err
}

// CountGroup returns how many signups a group retry would retry. It changes nothing.
func (a *Admin) CountGroup(ctx context.Context, n wire.NewGroupRetry) (matched int, err error) {
	n.DryRun = true
	var answer struct{ Matched int }
	_, err = a.do(ctx, call{method: http.MethodPost, path: "/admin/v1/retries", body: n, into: &answer})
	return answer.Matched, err
}

// RetryGroup begins a group retry.
func (a *Admin) RetryGroup(ctx context.Context, n wire.NewGroupRetry) (r wire.GroupRetry, err error) {
	_, err = a.do(ctx, call{method: http.MethodPost, path: "/admin/v1/retries", body: n, into: &r})
	return r, err
}

// GroupRetries lists group retries, newest first.
func (a *Admin) GroupRetries(ctx context.Context, part PageOf) (page wire.Page[wire.GroupRetry], err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/retries", query: part.values(), into: &page})
	return page, err
}

// GroupRetry returns a group retry and its progress.
func (a *Admin) GroupRetry(ctx context.Context, id string) (r wire.GroupRetry, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/retries/" + url.PathEscape(id), into: &r})
	return r, err
}

// CancelGroupRetry cancels a group retry: it releases no more signups. The reason may be empty.
func (a *Admin) CancelGroupRetry(ctx context.Context, id, reason string) (r wire.GroupRetry, err error) {
	c := call{method: http.MethodPost, path: "/admin/v1/retries/" + url.PathEscape(id) + "/cancel", into: &r}
	if reason != "" {
		c.body = map[string]string{"reason": reason}
	}
	_, err = a.do(ctx, c)
	return r, err
}

// DeadEvents lists dead events, the essential ones first.
func (a *Admin) DeadEvents(ctx context.Context, part PageOf) (page wire.Page[wire.DeadEvent], err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/outbox/dead", query: part.values(), into: &page})
	return page, err
}

// RequeueEvent makes the outbox publish a dead event again, and returns the event as it was.
func (a *Admin) RequeueEvent(ctx context.Context, id, reason string) (e wire.DeadEvent, err error) {
	_, err = a.do(ctx, call{method: http.MethodPost, path: "/admin/v1/outbox/dead/" + url.PathEscape(id) + "/requeue",
		body: map[string]string{"reason": reason}, into: &e})
	return e, err
}

// AuditFilter selects rows of the audit; zero values select all.
type AuditFilter struct {
	Actor, Action, SagaID string // as in wire.AuditRow
}

// Audit lists what operators did, newest first.
func (a *Admin) Audit(ctx context.Context, f AuditFilter, part PageOf) (page wire.Page[wire.AuditRow], err error) {
	q := part.values()
	set(q, "actor", f.Actor)
	set(q, "action", f.Action)
	set(q, "saga_id", f.SagaID)
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/audit", query: q, into: &page})
	return page, err
}
