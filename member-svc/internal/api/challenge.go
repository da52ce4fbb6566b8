package api

import (
	"errors"
	"net/http"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/challenge"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/service"
)

// solutionHeader holds the solution of a challenge, in a request that hashes a password.
const solutionHeader = "Challenge-Solution"

// Challenges says when clients get a challenge, and how hard it is.
type Challenges struct {
	*challenge.Issuer
	Pressure func() float64 // on the turns to hash; 0 for none
}

// caller adds the request's [password.Caller] to its context, for the queue of hashes.
func (a *API) caller(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := password.Caller{Address: service.ClientAddress(r)}
		if payload := r.Header.Get(solutionHeader); payload != "" {
			c.Solved = a.Challenges.Redeem(payload)
			a.Metrics.challenge(map[bool]string{true: "accepted", false: "refused"}[c.Solved])
		}
		next.ServeHTTP(w, r.WithContext(password.WithCaller(r.Context(), c)))
	})
}

// offer adds a challenge to the answer if there was no turn to hash.
func (a *API) offer(h service.Handler) service.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := h(w, r)
		if !errors.Is(err, password.ErrBusy) {
			return err
		}
		p := problem(err)
		challenge := a.issue(a.Challenges.Pressure())
		p.Challenge = &challenge
		return p
	}
}

// showChallenge answers with a challenge while solving one helps, else with 204.
func (a *API) showChallenge(w http.ResponseWriter, _ *http.Request) error {
	pressure := a.Challenges.Pressure()
	if pressure == 0 {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return service.WriteJSON(w, http.StatusOK, a.issue(pressure))
}

func (a *API) issue(pressure float64) wire.Challenge {
	a.Metrics.challenge("issued")
	return a.Challenges.Issue(challenge.Difficulty(pressure))
}
