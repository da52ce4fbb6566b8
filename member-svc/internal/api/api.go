// Package api serves member-svc's HTTP API: a public listener for clients, and an admin listener for operators,
// probes and metrics.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/account"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/stream"
	"github.com/signup-saga/signup-saga/service"
)

// API answers requests.
type API struct {
	Signups         *signup.Service
	Accounts        *account.Service
	Hub             *stream.Hub
	Store           *store.Store
	Steps           saga.Steps
	Metrics         *Metrics
	Challenges      Challenges
	DatabaseTimeout time.Duration // for each request of the admin listener
	Log             *slog.Logger

	// Limits of the public listener.
	signupAttempts, passwordAttempts *attempts
	streams                          *service.ConnLimiter
}

// Problems that do not stem from an error of another package.
var (
	errNotRetryable = service.NewProblem(http.StatusConflict, "not_retryable",
		"only a saga that needs attention can be retried")
)

// problem is the one place where errors become problems of the API. It returns nil for an error that it does
// not know; such errors are logged and answered with 500.
func problem(err error) *wire.Problem {
	var invalid signup.Invalid
	switch {
	case errors.As(err, &invalid):
		return service.NewProblem(http.StatusUnprocessableEntity, "validation_failed", invalid.Error(),
			invalid.Fields...)
	case errors.Is(err, signup.ErrTaken):
		return service.NewProblem(http.StatusConflict, "username_taken", signup.ErrTaken.Error())
	case errors.Is(err, signup.ErrKeyReused):
		return service.NewProblem(http.StatusUnprocessableEntity, "idempotency_key_reused", signup.ErrKeyReused.Error())
	case errors.Is(err, account.ErrCredentials):
		return service.NewProblem(http.StatusUnauthorized, "invalid_credentials", account.ErrCredentials.Error())
	case errors.Is(err, account.ErrNoSession):
		return service.NewProblem(http.StatusUnauthorized, "unauthorized", account.ErrNoSession.Error())
	case errors.Is(err, password.ErrBusy):
		return later(service.NewProblem(http.StatusServiceUnavailable, "busy", password.ErrBusy.Error()), time.Second)
	case errors.Is(err, store.ErrNotFound):
		return service.ErrNoResource
	case errors.Is(err, store.ErrStale):
		return service.NewProblem(http.StatusPreconditionFailed, "version_mismatch", store.ErrStale.Error())
	case errors.Is(err, store.ErrTooMany):
		return service.NewProblem(http.StatusUnprocessableEntity, "validation_failed", store.ErrTooMany.Error(),
			wire.FieldError{Pointer: "/filter", Detail: "selects too many sagas"})
	case errors.Is(err, store.ErrBusy):
		return service.NewProblem(http.StatusConflict, "too_many_retries", store.ErrBusy.Error())
	case errors.Is(err, store.ErrNotRunning):
		return service.NewProblem(http.StatusConflict, "not_running", store.ErrNotRunning.Error())
	case service.Unavailable(err), errors.Is(err, store.ErrTaken): // ErrTaken: it was taken, but is free again
		return later(service.NewProblem(http.StatusServiceUnavailable, "unavailable",
			"the database did not answer in time"), 2*time.Second)
	default:
		return nil
	}
}

func later(p *wire.Problem, after time.Duration) *wire.Problem {
	p.RetryAfter = after
	return p
}

func (a *API) handle(h service.Handler) http.HandlerFunc { return service.Adapt(a.Log, problem, h) }

// alone resets chi's routing state: a page that calls the API in this process has its own route in the context,
// and chi would continue from there.
func alone(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, nil)))
	})
}

// version returns the ETag of a version.
func version(n int64) string { return `"` + strconv.FormatInt(n, 10) + `"` }

func setETag(w http.ResponseWriter, n int64) { w.Header().Set("ETag", version(n)) }
