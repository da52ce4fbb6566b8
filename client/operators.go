package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Overview is how the service is doing.
type Overview struct {
	At            time.Time      `json:"at"`
	Counts        map[string]int `json:"counts"`                     // sagas by state
	Estimated     []string       `json:"estimated"`                  // states whose count is an estimate
	OldestPending *float64       `json:"oldest_pending_age_seconds"` // nil if nothing is pending
	Outbox        []Lane         `json:"outbox"`
	DeadEvents    int64          `json:"dead_events"`
	Breaker       Breaker        `json:"breaker"`
	Stranded      int            `json:"stranded"`      // members without their storage, by the last reconciliation
	Orphans       int            `json:"orphans"`       // storages without their member, by the last reconciliation
	ReconciledAt  *time.Time     `json:"reconciled_at"` // nil: never
	Minutes       []Minute       `json:"minutes"`       // the last hour, oldest first
	Consumers     []Consumer     `json:"consumers"`     // of which the broker said something lately
}

// Consumer is how far a consumer of messages is behind.
type Consumer struct {
	Stream      string     `json:"stream"`
	Consumer    string     `json:"consumer"`
	State       string     `json:"state"`           // delivering, paused or missing
	Messages    int        `json:"messages"`        // that wait to be delivered or acknowledged
	Stalled     float64    `json:"stalled_seconds"` // for how long none was acknowledged
	PausedUntil *time.Time `json:"paused_until"`
}

// Lane is a lane of the outbox.
type Lane struct {
	Lane    string  `json:"lane"`
	Events  int64   `json:"events"`  // that wait, at most
	Seconds float64 `json:"seconds"` // that the oldest of them has waited
}

// Breaker is what the Storage service last said of its provider.
type Breaker struct {
	State      string     `json:"state"` // open while it is away, or closed
	Since      *time.Time `json:"since"`
	ReportedAt *time.Time `json:"reported_at"`
	Error      *Cause     `json:"error"` // why it is away; nil if it is not, or if that was not said
}

// Minute is what began in a minute.
type Minute struct {
	At       time.Time `json:"at"`
	Signups  int       `json:"signups"`
	Failures int       `json:"failures"` // that still need attention
}

// Overview returns how the service is doing.
func (a *Admin) Overview(ctx context.Context) (o Overview, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/overview", into: &o})
	return o, err
}

// Failures are the failures of all groups, the largest groups first.
type Failures struct {
	Items    []FailureGroup `json:"items"`
	Groups   int            `json:"groups"`   // in all
	Failures int            `json:"failures"` // in all groups
}

// FailureGroup are sagas that need attention for one kind of error.
type FailureGroup struct {
	Fingerprint  string        `json:"fingerprint"`
	Count        int           `json:"count"`
	FirstSeen    time.Time     `json:"first_seen"`
	LastSeen     time.Time     `json:"last_seen"`
	RetriedAgain int           `json:"retried_again"` // failed again after an operator's retry
	Sample       FailureSample `json:"sample"`
}

// FailureSample is one of a group.
type FailureSample struct {
	SagaID  string `json:"saga_id"`
	Class   string `json:"class"`
	Message string `json:"message"`
}

// Failures lists up to limit groups (0: the service's default).
func (a *Admin) Failures(ctx context.Context, limit int) (f Failures, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/failures", query: PageOf{Limit: limit}.values(), into: &f})
	return f, err
}

// NewGroupRetry asks for a retry of the sagas that need attention and that the filter
// selects, by the names of the query of the list of sagas.
type NewGroupRetry struct {
	ID        string            `json:"id,omitempty"` // a UUIDv7 by which the call may be repeated; "": the service's
	Filter    map[string]string `json:"filter"`
	Reason    string            `json:"reason,omitempty"`
	Rate      int               `json:"rate_per_second,omitempty"`     // 0: the service's default
	StopAfter int               `json:"stop_after_failures,omitempty"` // 0: the service's default
}

// GroupRetry is a retry of a group.
type GroupRetry struct {
	ID             string            `json:"id"`
	Actor          string            `json:"actor"`
	Reason         string            `json:"reason"`
	Filter         map[string]string `json:"filter"`
	Rate           int               `json:"rate_per_second"`
	StopAfter      int               `json:"stop_after_failures"`
	State          string            `json:"state"`           // running, finished, stopped (by itself) or cancelled
	StoppedBecause string            `json:"stopped_because"` // failures, unsettled or ""
	Matched        int               `json:"matched"`
	Released       int               `json:"released"`
	Succeeded      int               `json:"succeeded"`
	Failed         int               `json:"failed"`
	Skipped        int               `json:"skipped"`
	Unsettled      int               `json:"unsettled"`
	Remaining      int               `json:"remaining"`
	CreatedAt      time.Time         `json:"created_at"`
	FinishedAt     *time.Time        `json:"finished_at"` // when it ceased to release
}

// CountGroup returns how many sagas a retry would be about.
func (a *Admin) CountGroup(ctx context.Context, n NewGroupRetry) (matched int, err error) {
	body := struct {
		NewGroupRetry
		DryRun bool `json:"dry_run"`
	}{n, true}
	var answer struct{ Matched int }
	_, err = a.do(ctx, call{method: http.MethodPost, path: "/admin/v1/retries", body: body, into: &answer})
	return answer.Matched, err
}

// RetryGroup begins a retry.
func (a *Admin) RetryGroup(ctx context.Context, n NewGroupRetry) (r GroupRetry, err error) {
	_, err = a.do(ctx, call{method: http.MethodPost, path: "/admin/v1/retries", body: n, into: &r})
	return r, err
}

// GroupRetries lists retries, newest first.
func (a *Admin) GroupRetries(ctx context.Context, part PageOf) (page Page[GroupRetry], err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/retries", query: part.values(), into: &page})
	return page, err
}

// GroupRetry returns how far a retry is.
func (a *Admin) GroupRetry(ctx context.Context, id string) (r GroupRetry, err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/retries/" + url.PathEscape(id), into: &r})
	return r, err
}

// CancelGroupRetry has a retry release no more. The reason may be empty.
func (a *Admin) CancelGroupRetry(ctx context.Context, id, reason string) (r GroupRetry, err error) {
	c := call{method: http.MethodPost, path: "/admin/v1/retries/" + url.PathEscape(id) + "/cancel", into: &r}
	if reason != "" {
		c.body = map[string]string{"reason": reason}
	}
	_, err = a.do(ctx, c)
	return r, err
}

// DeadEvent is an event that could not be published for a defect of its own.
type DeadEvent struct {
	ID      string    `json:"id"`
	Lane    string    `json:"lane"`
	EventID string    `json:"event_id"`
	Type    string    `json:"type"`
	Key     string    `json:"key"` // what it is about: a member's id
	Error   string    `json:"error"`
	DiedAt  time.Time `json:"died_at"`
}

// DeadEvents lists dead events, the essential ones first.
func (a *Admin) DeadEvents(ctx context.Context, part PageOf) (page Page[DeadEvent], err error) {
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/outbox/dead", query: part.values(), into: &page})
	return page, err
}

// RequeueEvent has a dead event published once more, and returns it as it was.
func (a *Admin) RequeueEvent(ctx context.Context, id, reason string) (e DeadEvent, err error) {
	_, err = a.do(ctx, call{method: http.MethodPost, path: "/admin/v1/outbox/dead/" + url.PathEscape(id) + "/requeue", body: map[string]string{"reason": reason}, into: &e})
	return e, err
}

// AuditRow is what somebody did.
type AuditRow struct {
	ID      int64           `json:"id"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Action  string          `json:"action"`
	SagaID  *string         `json:"saga_id"`
	Subject string          `json:"subject"` // what else it was about
	Reason  string          `json:"reason"`
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
}

// AuditFilter selects what somebody did; zero values select all.
type AuditFilter struct{ Actor, Action, SagaID string }

// Audit lists what operators did, newest first.
func (a *Admin) Audit(ctx context.Context, f AuditFilter, part PageOf) (page Page[AuditRow], err error) {
	q := part.values()
	set(q, "actor", f.Actor)
	set(q, "action", f.Action)
	set(q, "saga_id", f.SagaID)
	_, err = a.do(ctx, call{method: http.MethodGet, path: "/admin/v1/audit", query: q, into: &page})
	return page, err
}
