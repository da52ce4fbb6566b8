package service

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Roles of a token. An operator may do everything a viewer may.
const (
	RoleViewer   = "viewer"
	RoleOperator = "operator"
)

// Tokens authenticates bearers. Only hashes are kept. Safe for concurrent use.
type Tokens struct {
	list  func() []token
	file  bool // read from a token file: tokens may expire, and people type them
	guard *guard
}

type token struct {
	name, role string
	hash       [sha256.Size]byte
	expires    time.Time // zero: never
}

func (t token) expired() bool { return !t.expires.IsZero() && !time.Now().Before(t.expires) }

// LoadTokens reads a token file. Its lines have the form name:role:sha256-hex[:expiry]; empty lines and lines that
// begin with # are skipped. The expiry is a date (the token is valid until that day begins in UTC) or an RFC 3339
// time. At least one token is required. Errors give the line's number, never its content.
//
// A changed file takes effect with the next request. A file that cannot be read or has a mistake in it changes
// nothing, and is logged. Each load logs the tokens that expire soon.
func LoadTokens(path string, log *slog.Logger) (*Tokens, error) {
	file, err := newReloaded(log, func() ([]token, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("tokens: %w", unreadable(err))
		}
		list, err := parseTokens(string(b))
		warnOfExpiry(log, list)
		return list, err
	}, path)
	if err != nil {
		return nil, err
	}
	return &Tokens{list: file.get, file: true}, nil
}

// OperatorTokens accepts any of several secrets, separated by white space, with the operator's role. There is
// more than one while they are being replaced. Each must be long enough for 128 random bits.
func OperatorTokens(name, secrets string) (*Tokens, error) {
	var list []token
	for secret := range strings.FieldsSeq(secrets) {
		if weak(secret) {
			return nil, errors.New("must have at least 22 random characters or 32 random hexadecimal digits: " +
				"make a token with openssl rand -hex 32")
		}
		list = append(list, token{name: name, role: RoleOperator, hash: sha256.Sum256([]byte(secret))})
	}
	if len(list) == 0 {
		return nil, errors.New("has no token: make one with openssl rand -hex 32")
	}
	return &Tokens{list: func() []token { return list }}, nil
}

// Require lets requests pass whose bearer has the role. It answers 401 without a known token, 403 if the role
// is not enough and, if [Tokens.Watch] was called, 429 after too many wrong tokens. Handlers get the bearer
// from [Actor]. A request whose context comes from [Sessions.Resume] needs no token.
func (t *Tokens) Require(role string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, ok := r.Context().Value(actorKey{}).(token)
			var refusal *wire.Problem
			if !ok {
				who, refusal = t.authenticate(r, Bearer(r))
			}
			switch {
			case refusal != nil:
				WriteProblem(w, refusal)
			case role == RoleOperator && who.role != RoleOperator:
				WriteProblem(w, NewProblem(http.StatusForbidden, "forbidden", "this needs the operator role"))
			default:
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), actorKey{}, who)))
			}
		})
	}
}

// authenticate returns the token that a request's secret belongs to, or why it is refused.
func (t *Tokens) authenticate(r *http.Request, secret string) (token, *wire.Problem) {
	if secret == "" {
		return token{}, errNoToken()
	}
	if t.guard == nil {
		who, reason := t.find(secret)
		if reason != "" {
			return token{}, errNoToken()
		}
		return who, nil
	}
	return t.guard.check(r, func() (token, string) { return t.find(secret) })
}

func errNoToken() *wire.Problem {
	return NewProblem(http.StatusUnauthorized, "unauthorized", "a valid bearer token is required")
}

// Why a token is refused.
const (
	reasonUnknown = "unknown"
	reasonShort   = "short"
	reasonTypo    = "typo"
	reasonExpired = "expired"
	reasonLimited = "limited"
)

// find compares secret with every token, so that the time it takes says nothing about any of them. The reason
// is "" if the token is accepted.
func (t *Tokens) find(secret string) (found token, reason string) {
	hash := sha256.Sum256([]byte(secret))
	reason = reasonUnknown
	for _, candidate := range t.list() {
		if subtle.ConstantTimeCompare(hash[:], candidate.hash[:]) == 1 {
			found, reason = candidate, ""
		}
	}
	switch {
	case t.file && len(secret) < shortestToken:
		return token{}, reasonShort
	case t.file && reason != "" && misspelt(secret):
		return token{}, reasonTypo
	case reason == "" && found.expired():
		return token{}, reasonExpired
	}
	return found, reason
}

type actorKey struct{}

// Actor returns name and role of the bearer that [Tokens.Require] let pass, or empty strings.
func Actor(ctx context.Context) (name, role string) {
	who, _ := ctx.Value(actorKey{}).(token)
	return who.name, who.role
}
