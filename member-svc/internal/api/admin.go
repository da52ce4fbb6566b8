package api

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/account"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// Admin returns the handler of the admin listener.
func (a *API) Admin(tokens *service.Tokens, health *service.Health) http.Handler {
	r := a.router()
	r.Get("/openapi.json", a.handle(service.OpenAPI(adminDocument)))
	r.Get("/livez", health.LiveHandler)
	r.Get("/readyz", health.ReadyHandler)
	r.Handle("/metrics", a.Metrics.Handler())
	r.Route("/admin/v1/sagas", func(r chi.Router) {
		r.Use(private, deadline(a.DatabaseTimeout), tokens.Require(service.RoleViewer))
		r.Get("/", a.handle(a.listSagas))
		r.Get("/{saga_id}", a.handle(a.showSaga))
		operator := r.With(tokens.Require(service.RoleOperator))
		operator.Post("/{saga_id}/retry", a.handle(a.act(saga.Retried, errNotRetryable)))
		operator.Post("/{saga_id}/cancel", a.handle(a.act(saga.Withdraw, account.ErrTooNew)))
	})
	return r
}

// sagaView is a saga as operators see it.
type sagaView struct {
	SagaID        string                 `json:"saga_id"`
	MemberID      string                 `json:"member_id"`
	SignupID      string                 `json:"signup_id"`
	Username      *string                `json:"username"`
	Plan          string                 `json:"plan"`
	State         saga.State             `json:"state"`
	Step          string                 `json:"step"` // that is asked, or was asked last
	Delayed       bool                   `json:"delayed"`
	Generation    int64                  `json:"generation"`
	Version       int64                  `json:"version"`
	Attempts      int                    `json:"attempts"` // times the current command was sent
	RetryOpen     bool                   `json:"retry_open"`
	LastError     *contract.StorageError `json:"last_error"`
	NextAttemptAt *time.Time             `json:"next_attempt_at"`
	CreatedAt     time.Time              `json:"created_at"`
	UpdatedAt     time.Time              `json:"updated_at"`
	Timeline      []store.Moment         `json:"timeline,omitempty"`
}

func (a *API) view(r store.Record) sagaView {
	v := sagaView{
		SagaID: r.ID, MemberID: r.MemberID, SignupID: r.SignupID, Username: r.Username, Plan: r.Plan,
		State: r.State, Step: a.Steps.Name(r.Saga), Delayed: a.Steps.Delayed(r.Saga, r.Now), Generation: r.Generation, Version: r.Version,
		Attempts: r.Redrives + 1, RetryOpen: r.RetryOpen, CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(),
	}
	if r.ErrorClass != "" {
		v.LastError = &contract.StorageError{Class: r.ErrorClass, Message: r.ErrorMessage, Fingerprint: r.ErrorFingerprint}
	}
	if r.DueAt != nil {
		at := r.DueAt.UTC()
		v.NextAttemptAt = &at
	}
	return v
}

func (a *API) listSagas(w http.ResponseWriter, r *http.Request) error {
	f, err := filter(r.URL.Query())
	if err != nil {
		return err
	}
	records, next, err := a.Store.List(r.Context(), f)
	if err != nil {
		return err
	}
	page := struct {
		Items      []sagaView `json:"items"`
		NextCursor *string    `json:"next_cursor"`
	}{Items: make([]sagaView, len(records))}
	for i, record := range records {
		page.Items[i] = a.view(record)
	}
	if cursor := next.String(); cursor != "" {
		page.NextCursor = &cursor
	}
	return service.WriteJSON(w, http.StatusOK, page)
}

// filter reads a query strictly: a misspelt filter that selects everything misleads.
func filter(q url.Values) (store.Filter, error) {
	f := store.Filter{Limit: 50}
	for name, values := range q {
		var err error
		value := values[0]
		switch name {
		case "state":
			f.State = saga.State(value)
			if !slices.Contains(saga.States, f.State) {
				return f, invalid("/state", "is not a state")
			}
		case "delayed":
			var delayed bool
			delayed, err = strconv.ParseBool(value)
			f.Delayed = &delayed
		case "username":
			f.UsernameKey, err = signup.UsernameKey(value)
		case "created_after":
			f.CreatedAfter, err = time.Parse(time.RFC3339Nano, value)
		case "created_before":
			f.CreatedBefore, err = time.Parse(time.RFC3339Nano, value)
		case "limit":
			f.Limit, err = strconv.Atoi(value)
			if f.Limit < 1 || f.Limit > 200 {
				return f, invalid("/limit", "must be 1 to 200")
			}
		case "cursor":
			f.After, err = store.ParseCursor(value)
		default:
			return f, invalid("/"+name, "is not a filter")
		}
		if err != nil {
			return f, invalid("/"+name, "cannot be read")
		}
	}
	return f, nil
}

func (a *API) showSaga(w http.ResponseWriter, r *http.Request) error {
	record, timeline, err := a.Store.Get(r.Context(), chi.URLParam(r, "saga_id"))
	if err != nil {
		return err
	}
	v := a.view(record)
	v.Timeline = timeline
	setETag(w, record.Version)
	return service.WriteJSON(w, http.StatusOK, v)
}

// act returns a handler for what an operator wants of one saga, for a reason that is
// kept. A saga whose state does not allow it is answered with refusal.
func (a *API) act(kind saga.Kind, refusal error) service.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		change, err := wish(w, r, kind)
		if err != nil {
			return err
		}
		results, err := a.Store.Apply(r.Context(), change)
		if err != nil {
			return err
		}
		switch results[0].Outcome {
		case "":
			return store.ErrNotFound
		case saga.Refused:
			return refusal
		}
		setETag(w, results[0].Version)
		return service.WriteJSON(w, http.StatusAccepted, a.view(results[0].Record))
	}
}

func wish(w http.ResponseWriter, r *http.Request, kind saga.Kind) (store.Change, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := service.DecodeJSON(w, r, &body); err != nil {
		return store.Change{}, err
	}
	if reason := strings.TrimSpace(body.Reason); reason == "" || len(reason) > 1000 || strings.ContainsRune(reason, 0) {
		return store.Change{}, invalid("/reason", "must say why, in up to 1000 bytes")
	}
	change := store.Change{SagaID: chi.URLParam(r, "saga_id"), Event: saga.Event{Kind: kind, Reason: body.Reason}}
	change.Event.Actor, _ = service.Actor(r.Context())
	if etag := r.Header.Get("If-Match"); etag != "" && etag != "*" {
		version, err := strconv.ParseInt(strings.Trim(etag, `"`), 10, 64)
		if err != nil {
			return store.Change{}, store.ErrStale // not an ETag of ours
		}
		change.IfVersion = &version
	}
	return change, nil
}
