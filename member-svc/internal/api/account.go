package api

import (
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/account"
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
	if err := a.passwordAttempts.at(client, nameKey(body.Username)); err != nil {
		return err
	}
	session, err := a.Accounts.SignIn(r.Context(), body.Username, body.Password)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, session)
}

func (a *API) signOut(w http.ResponseWriter, r *http.Request) error {
	token, err := bearer(r)
	if err == nil {
		err = a.Accounts.SignOut(r.Context(), token)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) showMe(w http.ResponseWriter, r *http.Request) error {
	token, err := bearer(r)
	if err != nil {
		return err
	}
	me, err := a.Accounts.Me(r.Context(), token)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, me)
}

func (a *API) withdraw(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() { a.Metrics.passwordChecked(useLeave, err) }()
	client := service.ClientAddress(r)
	if err := a.passwordAttempts.from(client); err != nil {
		return err
	}
	token, err := bearer(r)
	if err != nil {
		return err
	}
	var body struct {
		Password string `json:"password"`
	}
	if err := service.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	if err := a.passwordAttempts.at(client, "bearer "+token); err != nil { // a stolen session is no way to guess faster
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
	client := service.ClientAddress(r)
	if err := a.passwordAttempts.from(client); err != nil {
		return err
	}
	token, err := bearer(r)
	if err != nil {
		return err
	}
	var body struct {
		Old string `json:"old_password"`
		New string `json:"new_password"`
	}
	if err := service.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	if err := a.passwordAttempts.at(client, "bearer "+token); err != nil {
		return err
	}
	if err := a.Accounts.ChangePassword(r.Context(), token, body.Old, body.New); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) listSessions(w http.ResponseWriter, r *http.Request) error {
	token, err := bearer(r)
	if err != nil {
		return err
	}
	sessions, err := a.Accounts.Sessions(r.Context(), token)
	if err != nil {
		return err
	}
	return service.WriteJSON(w, http.StatusOK, map[string]any{"items": sessions})
}

// endSessions ends all sessions, or all but the current one.
func (a *API) endSessions(w http.ResponseWriter, r *http.Request) error {
	token, err := bearer(r)
	if err != nil {
		return err
	}
	others := false
	known := filters{"others": parsed(&others, strconv.ParseBool)}
	if err := readQuery(r, known); err != nil {
		return err
	}
	if err := a.Accounts.EndSessions(r.Context(), token, others); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) endSession(w http.ResponseWriter, r *http.Request) error {
	token, err := bearer(r)
	if err == nil {
		err = a.Accounts.EndSession(r.Context(), token, chi.URLParam(r, "session_id"))
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// bearer returns the request's session token.
func bearer(r *http.Request) (string, error) {
	token := service.Bearer(r)
	if token == "" {
		return "", account.ErrNoSession
	}
	return token, nil
}
