package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/etag"
)

// Number of items on a page of a list: by default, and at most.
const defaultLimit, maxLimit = 50, 200

// Admin returns the handler of the admin listener.
func (a *API) Admin(tokens *service.Tokens, health *service.Health) http.Handler {
	r := service.NewRouter(a.Log)
	service.AddOperations(r, a.Log, health, a.Metrics.registry, adminDocument)
	r.Route("/admin/v1", func(r chi.Router) {
		r.Use(private, service.Deadline(a.DatabaseTimeout), tokens.Require(service.RoleViewer))
		operator, list := r.With(tokens.Require(service.RoleOperator)), r.With(service.Compress)
		list.Get("/sagas", a.handle(a.listSagas))
		r.Get("/sagas/{saga_id}", a.handle(a.showSaga))
		operator.Post("/sagas/{saga_id}/retry", a.handle(a.act(saga.Retried)))
		operator.Post("/sagas/{saga_id}/cancel", a.handle(a.act(saga.Withdraw)))
		list.Get("/overview", a.handle(a.showOverview))
		list.Get("/failures", a.handle(a.listFailures))
		list.Get("/retries", a.handle(a.listRetries))
		operator.Post("/retries", a.handle(a.beginRetry))
		r.Get("/retries/{id}", a.handle(a.showRetry))
		operator.Post("/retries/{id}/cancel", a.handle(a.cancelRetry))
		list.Get("/outbox/dead", a.handle(a.listDead))
		operator.Post("/outbox/dead/{id}/requeue", a.handle(a.requeue))
		list.Get("/audit", a.handle(a.listAudit))
	})
	return alone(r)
}

// view returns what the API shows of a saga. During an outage of the provider, the LastError of an open saga is
// the outage, whatever its own last attempt met.
func (a *API) view(r store.Record, provider wire.Breaker) wire.Saga {
	v := wire.Saga{
		SagaID: r.ID, MemberID: r.MemberID, SignupID: r.SignupID, Username: r.Username, Plan: r.Plan,
		State: string(r.State), Step: a.Steps.Name(r.Saga), Delayed: a.Steps.Delayed(r.Saga, r.Now),
		Generation: r.Generation, Version: r.Version,
		Attempts: r.Redrives + 1, RetryOpen: r.RetryOpen, CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(),
	}
	if r.ErrorClass != "" {
		v.LastError = &contract.StorageError{Class: r.ErrorClass, Message: r.ErrorMessage,
			Fingerprint: r.ErrorFingerprint}
	}
	if r.State.Open() && provider.Error != nil {
		v.LastError = provider.Error
	}
	if _, rest, ok := strings.Cut(r.TraceParent, "-"); ok {
		id, _, _ := strings.Cut(rest, "-")
		v.TraceID = &id
	}
	if r.DueAt != nil {
		at := r.DueAt.UTC()
		v.NextAttemptAt = &at
	}
	return v
}

func (a *API) listSagas(w http.ResponseWriter, r *http.Request) error {
	f := store.Filter{Limit: defaultLimit}
	known := selection(&f)
	known["limit"] = service.Limit(&f.Limit, maxLimit)
	known["cursor"] = service.Parsed(&f.After, store.ParseCursor)
	known["username"] = service.Parsed(&f.UsernameKey, signup.UsernameKey)
	known["member_id"] = service.Parsed(&f.MemberID, func(v string) (string, error) {
		id, err := uuid.FromString(v)
		return id.String(), err
	})
	known["delayed"] = service.Parsed(&f.Delayed, func(v string) (*bool, error) {
		delayed, err := strconv.ParseBool(v)
		return &delayed, err
	})
	if err := service.ReadQuery(r, known); err != nil {
		return err
	}
	records, next, err := a.Store.List(r.Context(), f)
	if err != nil {
		return err
	}
	provider, err := a.Store.Provider(r.Context())
	if err != nil {
		return err
	}
	items := make([]wire.Saga, len(records))
	for i, record := range records {
		items[i] = a.view(record, provider)
	}
	return service.WritePage(w, items, next.String())
}

// selection returns the parameters by which sagas are listed and retried.
func selection(f *store.Filter) service.Params {
	instant := func(v string) (time.Time, error) { return time.Parse(time.RFC3339Nano, v) }
	return service.Params{
		"state": func(v string) string {
			f.State = saga.State(v)
			if !slices.Contains(saga.States, f.State) {
				return "is not a state"
			}
			return ""
		},
		"plan": func(v string) string {
			f.Plan = v
			if store.QuotaBytes[v] == 0 {
				return "is not a plan"
			}
			return ""
		},
		"error":          service.Text(&f.Error),
		"created_after":  service.Parsed(&f.CreatedAfter, instant),
		"created_before": service.Parsed(&f.CreatedBefore, instant),
	}
}

func (a *API) showSaga(w http.ResponseWriter, r *http.Request) error {
	record, timeline, err := a.Store.Get(r.Context(), chi.URLParam(r, "saga_id"))
	if err != nil {
		return err
	}
	provider, err := a.Store.Provider(r.Context())
	if err != nil {
		return err
	}
	v := a.view(record, provider)
	v.Timeline = timeline
	setETag(w, record.Version)
	return service.WriteJSON(w, http.StatusOK, v)
}

// act returns a handler for an operator's action on one saga. The action needs a reason, which is kept. Only a
// retry can be refused.
func (a *API) act(kind saga.Kind) service.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		change, err := readChange(w, r, kind)
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
			return errNotRetryable
		}
		setETag(w, results[0].Version)
		return service.WriteJSON(w, http.StatusAccepted, a.view(results[0].Record, wire.Breaker{}))
	}
}

// readChange reads what an operator orders for one saga.
func readChange(w http.ResponseWriter, r *http.Request, kind saga.Kind) (store.Change, error) {
	why, err := reason(w, r)
	if err != nil {
		return store.Change{}, err
	}
	change := store.Change{SagaID: chi.URLParam(r, "saga_id"), Event: saga.Event{Kind: kind, Reason: why}}
	change.Event.Actor, _ = service.Actor(r.Context())
	change.IfVersions, err = ifMatch(r)
	return change, err
}

var errIfMatch = service.NewProblem(http.StatusBadRequest, "invalid_precondition",
	`If-Match must be * or a list of ETags, as in "1", "2"`)

// ifMatch returns the versions that a request is meant for; nil means any. Weak ETags and ETags that are not
// ours match nothing.
func ifMatch(r *http.Request) ([]int64, error) {
	p, ok := etag.Read(r, "If-Match")
	switch {
	case !ok:
		return nil, errIfMatch
	case !p.Given || p.Any:
		return nil, nil
	}
	versions := []int64{}
	for _, tag := range p.Tags {
		n, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
		if err == nil && version(n) == tag {
			versions = append(versions, n)
		}
	}
	return versions, nil
}

// reason reads a body that gives the reason for an action.
func reason(w http.ResponseWriter, r *http.Request) (string, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := service.DecodeJSON(w, r, &body); err != nil {
		return "", err
	}
	return body.Reason, checkReason(body.Reason)
}

func checkReason(why string) error {
	if strings.TrimSpace(why) == "" || len(why) > 1000 || strings.ContainsRune(why, 0) {
		return service.Invalid("/reason", "must say why, in at most 1000 bytes")
	}
	return nil
}
