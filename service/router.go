package service

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ErrNoResource is the problem for a path that has nothing behind it.
var ErrNoResource = NewProblem(http.StatusNotFound, "not_found", "no such resource")

// NewRouter returns a router that answers HEAD as GET, and unknown paths and methods with a problem.
func NewRouter(log *slog.Logger) chi.Router {
	r := chi.NewRouter()
	r.Use(middleware.GetHead)
	r.NotFound(Adapt(log, nil, func(http.ResponseWriter, *http.Request) error { return ErrNoResource }))
	r.MethodNotAllowed(Adapt(log, nil, unknownMethod(func(method, path string) bool {
		return r.Match(chi.NewRouteContext(), method, path)
	})))
	return r
}

// AddOperations adds what the listener of a service has for its operators: probes, metrics and the OpenAPI
// document of its API. Metrics that cannot be read are left out: the others are useful during an outage.
func AddOperations(r chi.Router, log *slog.Logger, health *Health, metrics prometheus.Gatherer, document []byte) {
	r.With(Compress).Get("/openapi.json", Adapt(log, nil, OpenAPI(document)))
	r.Get("/livez", health.LiveHandler)
	r.Get("/readyz", health.ReadyHandler)
	r.Method(http.MethodGet, "/metrics",
		promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
}

// Deadline bounds the work on a request: the request's context ends after d.
func Deadline(d time.Duration) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), d)
			defer cancel()
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}
