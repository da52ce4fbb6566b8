package api

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/etag"
)

// Public returns the handler of the public listener. pages adds routes beside those of the API; they may call the
// API in this process. Call Public once.
func (a *API) Public(limits Limits, pages func(routes chi.Router, api http.Handler)) http.Handler {
	a.signupAttempts, a.passwordAttempts = newAttempts(limits.Signups), newAttempts(limits.Passwords)
	a.streams = service.NewConnLimiter(limits.Streams)
	r := service.NewRouter(a.Log)
	r.Use(private)
	handler := alone(r)
	pages(r, handler)
	r.With(service.Compress).Get("/openapi.json", a.handle(service.OpenAPI(publicDocument)))
	api := r.With(a.caller)
	api.Post("/v1/members", a.handle(a.offer(a.signUp)))
	api.Get("/v1/signups/{signup_id}", a.handle(a.showSignup))
	api.Get("/v1/signups/{signup_id}/events", a.handle(a.streamSignup))
	api.Get("/v1/members/me", a.handle(signed(a.showMe)))
	api.Put("/v1/members/me/password", a.handle(a.offer(a.changePassword)))
	api.Get("/v1/sessions", a.handle(signed(a.listSessions)))
	api.Delete("/v1/sessions", a.handle(signed(a.endSessions)))
	api.Delete("/v1/sessions/current", a.handle(signed(a.signOut)))
	api.Delete("/v1/sessions/{session_id}", a.handle(signed(a.endSession)))
	api.Post("/v1/sessions", a.handle(a.offer(a.signIn)))
	api.Delete("/v1/members/me", a.handle(a.offer(a.withdraw)))
	api.Get("/v1/challenges", a.handle(a.showChallenge))
	return handler
}

// private keeps URLs that grant access out of caches and out of other sites' logs.
func private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

func (a *API) signUp(w http.ResponseWriter, r *http.Request) (err error) {
	began, outcome := time.Now(), "created"
	defer func() { a.Metrics.signedUp(outcome, err, time.Since(began)) }()
	client := service.ClientAddress(r)
	if err := a.signupAttempts.from(client); err != nil {
		return err
	}
	var req wire.NewMember
	if err := service.DecodeJSON(w, r, &req); err != nil {
		return err
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	username, _ := signup.UsernameKey(req.Username)
	if err := a.signupAttempts.at(client, cmp.Or(username, req.Username)); err != nil {
		return err
	}
	answer, err := a.Signups.SignUp(r.Context(), req, username, key)
	if err != nil {
		return err
	}
	if answer.Replayed {
		outcome = "replayed"
		w.Header().Set("Idempotent-Replayed", "true")
	}
	prefix := service.PathPrefix(r)
	w.Header().Set("Location", prefix+"/v1/signups/"+answer.SignupID)
	if prefix == "" {
		return service.WriteJSON(w, http.StatusCreated, answer.Body)
	}
	var view signup.View
	if err := json.Unmarshal(answer.Body, &view); err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusCreated, view.Below(prefix))
}

// idempotencyKey returns the header's value, bare or quoted; "" if there is none.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := strings.TrimSpace(values[0])
	if len(key) > 1 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	if len(values) > 1 || key == "" || len(key) > 255 ||
		strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", service.NewProblem(http.StatusBadRequest, "invalid_idempotency_key",
			"Idempotency-Key must be one value of 1 to 255 printable ASCII characters")
	}
	return key, nil
}

func (a *API) showSignup(w http.ResponseWriter, r *http.Request) error {
	view, err := a.Signups.Find(r.Context(), chi.URLParam(r, "signup_id"))
	if err != nil {
		return err
	}
	tag := version(view.Version)
	if view.Delayed { // time alone changes this, not the version
		tag = strings.TrimSuffix(tag, `"`) + `-delayed"`
	}
	if !view.Settled() {
		w.Header().Set("Retry-After", "1")
	}
	if etag.NotModified(w, r, tag) {
		return nil
	}
	return service.WriteJSON(w, http.StatusOK, view.Below(service.PathPrefix(r)))
}
