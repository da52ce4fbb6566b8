package api

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/account"
	"github.com/signup-saga/signup-saga/member-svc/internal/signup"
	"github.com/signup-saga/signup-saga/service"
)

func (a *API) signIn(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { a.Metrics.passwordChecked(useSignIn, err) }()
	client := service.ClientAddress(r)
	if err := a.passwordAttempts.from(client); err != nil {
		return err
	}
	var body struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	if err := service.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	key, _ := signup.UsernameKey(body.Username)
	if err := a.passwordAttempts.at(client, cmp.Or(key, body.Username)); err != nil {
		return err
	}
	session, err := a.Accounts.SignIn(r.Context(), key, body.Password)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, session)
}

func (a *API) signOut(w http.ResponseWriter, r *http.Request, token string) error {
	return noContent(w, a.Accounts.SignOut(r.Context(), token))
}

func (a *API) showMe(w http.ResponseWriter, r *http.Request, token string) error {
	me, err := a.Accounts.Me(r.Context(), token)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, me)
}

func (a *API) withdraw(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { a.Metrics.passwordChecked(useLeave, err) }()
	var body struct {
		Password string `json:"password"`
	}
	token, err := a.decodeSigned(w, r, &body)
	if err != nil {
		return err
	}
	view, err := a.Accounts.Withdraw(r.Context(), token, body.Password)
	if err != nil {
		return err
	}
	view = view.Below(service.PathPrefix(r))
	w.Header().Set("Location", view.Links["self"])
	setETag(w, view.Version)
	return service.WriteJSON(w, http.StatusAccepted, view)
}

func (a *API) changePassword(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { a.Metrics.passwordChecked(useChange, err) }()
	var body struct {
		Old string `json:"old_password"`
		New string `json:"new_password"`
	}
	token, err := a.decodeSigned(w, r, &body)
	if err != nil {
		return err
	}
	return noContent(w, a.Accounts.ChangePassword(r.Context(), token, body.Old, body.New))
}

// decodeSigned reads the body of a request that has a session and a password. It counts an attempt of the
// address and one of the session, so that a stolen session is no faster way to guess.
func (a *API) decodeSigned(w http.ResponseWriter, r *http.Request, body any) (token string, err error) {
	client := service.ClientAddress(r)
	if err := a.passwordAttempts.from(client); err != nil {
		return "", err
	}
	if token, err = bearer(r); err != nil {
		return "", err
	}
	if err := service.DecodeJSON(w, r, body); err != nil {
		return "", err
	}
	return token, a.passwordAttempts.at(client, "bearer "+token)
}

func (a *API) listSessions(w http.ResponseWriter, r *http.Request, token string) error {
	sessions, err := a.Accounts.Sessions(r.Context(), token)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, map[string]any{"items": sessions})
}

// endSessions ends all sessions, or all but the current one.
func (a *API) endSessions(w http.ResponseWriter, r *http.Request, token string) error {
	others := false
	known := service.Params{"others": service.Parsed(&others, strconv.ParseBool)}
	if err := service.ReadQuery(r, known); err != nil {
		return err
	}
	return noContent(w, a.Accounts.EndSessions(r.Context(), token, others))
}

func (a *API) endSession(w http.ResponseWriter, r *http.Request, token string) error {
	return noContent(w, a.Accounts.EndSession(r.Context(), token, chi.URLParam(r, "session_id")))
}

// signed returns a handler that passes the request's session token to h.
func signed(h func(w http.ResponseWriter, r *http.Request, token string) error) service.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		token, err := bearer(r)
		if err != nil {
			return err
		}
		return h(w, r, token)
	}
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// bearer returns the request's session token.
func bearer(r *http.Request) (string, error) {
	token := service.Bearer(r)
	if token == "" {
		return "", account.ErrNoSession
	}
	return token, nil
}
