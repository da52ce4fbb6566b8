// Package api is the internal HTTP listener of the Storage service.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

// API answers requests.
type API struct {
	Store   *store.Store
	Tokens  *service.Tokens
	Health  *service.Health
	Metrics prometheus.Gatherer
	Log     *slog.Logger
	Timeout time.Duration // of the database work of one request
	Faults  bool          // serve /v1/faults
	// Requeue applies a dead letter's message, see [provision.Handler.Requeue].
	Requeue func(ctx context.Context, id string) error
}

// Handler returns the routes. All but the probes, the metrics and the OpenAPI document need a token.
func (a *API) Handler() http.Handler {
	r := service.NewRouter(a.Log)
	service.AddOperations(r, a.Log, a.Health, a.Metrics, document)
	r.Group(func(r chi.Router) {
		r.Use(a.Tokens.Require(service.RoleOperator), service.Deadline(a.Timeout))
		r.With(service.Compress).Get("/v1/storages", a.adapt(a.listStorages))
		r.Get("/v1/storages/{member_id}", a.adapt(a.getStorage))
		r.With(service.Compress).Get("/v1/dead-letters", a.adapt(a.listDeadLetters))
		r.Post("/v1/dead-letters/{id}/requeue", a.adapt(a.requeue))
		if a.Faults {
			r.Get("/v1/faults", a.adapt(a.getFaults))
			r.Put("/v1/faults", a.adapt(a.putFaults))
		}
	})
	return r
}

func (a *API) adapt(h service.Handler) http.HandlerFunc { return service.Adapt(a.Log, problem, h) }

// problem maps the errors of this service to problems.
func problem(err error) *wire.Problem {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return service.ErrNoResource
	case errors.Is(err, provision.ErrStillPoison):
		return service.NewProblem(http.StatusConflict, "still_poison",
			"the message still cannot be applied; the dead letter is kept")
	case service.Unavailable(err):
		p := service.NewProblem(http.StatusServiceUnavailable, "unavailable", "the database does not answer")
		p.RetryAfter = time.Second
		return p
	}
	return nil
}

func (a *API) getFaults(w http.ResponseWriter, r *http.Request) error {
	f, err := a.Store.Fault(r.Context())
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, f)
}

func (a *API) putFaults(w http.ResponseWriter, r *http.Request) error {
	body := struct {
		Mode        provider.Mode `json:"mode"`
		Probability *float64      `json:"probability"`
		LatencyMS   int           `json:"latency_ms"`
	}{}
	if err := service.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	f := provider.Fault{Mode: body.Mode, Probability: 1, LatencyMS: body.LatencyMS}
	if body.Probability != nil {
		f.Probability = *body.Probability
	}
	if errs := validate(f); len(errs) > 0 {
		return service.NewProblem(http.StatusUnprocessableEntity, "validation_failed", "the setting is not valid",
			errs...)
	}
	if err := a.Store.SetFault(r.Context(), f); err != nil {
		return err
	}
	select { // when the caller gets the answer, every replica uses the setting
	case <-r.Context().Done():
	case <-time.After(provider.FaultTTL):
	}
	a.Log.Warn("provider fault set", "mode", f.Mode, "probability", f.Probability, "latency_ms", f.LatencyMS)
	return service.WriteJSON(w, http.StatusOK, f)
}

func validate(f provider.Fault) []wire.FieldError {
	var errs []wire.FieldError
	if !f.Mode.Known() {
		errs = append(errs, wire.FieldError{Pointer: "/mode",
			Detail: "must be none, outage, slow, flaky, reject, hang or throttle"})
	}
	if !(f.Probability >= 0 && f.Probability <= 1) {
		errs = append(errs, wire.FieldError{Pointer: "/probability", Detail: "must be 0 to 1"})
	}
	if f.LatencyMS < 0 || f.LatencyMS > provider.MaxLatencyMS {
		errs = append(errs, wire.FieldError{Pointer: "/latency_ms", Detail: "must be 0 to 60000"})
	}
	return errs
}
