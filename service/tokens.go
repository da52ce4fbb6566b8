package service

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
)

// Roles of a token. An operator may do everything a viewer may.
const (
	RoleViewer   = "viewer"
	RoleOperator = "operator"
)

// Tokens authenticates bearers. Only hashes are kept. Safe for concurrent use.
type Tokens struct{ list func() []token }

type token struct {
	name, role string
	hash       [sha256.Size]byte
}

// LoadTokens reads a file as [ParseTokens] does. A changed file holds from the
// next request on; one that cannot be read or has a mistake in it changes
// nothing, and is logged.
func LoadTokens(path string, log *slog.Logger) (*Tokens, error) {
	file, err := newReloaded(log, func() ([]token, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("tokens: %w", err)
		}
		return parseTokens(string(b))
	}, path)
	if err != nil {
		return nil, err
	}
	return &Tokens{list: file.get}, nil
}

// ParseTokens reads lines name:role:sha256-hex; empty lines and lines that begin
// with # are skipped. Errors name the line, never what is in it. At least one
// token is required.
func ParseTokens(text string) (*Tokens, error) {
	list, err := parseTokens(text)
	return &Tokens{list: func() []token { return list }}, err
}

func parseTokens(text string) (list []token, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.Split(line, ":")
		if len(parts) != 3 || parts[0] == "" || (parts[1] != RoleViewer && parts[1] != RoleOperator) {
			return nil, fmt.Errorf("tokens: line %d is not name:role:sha256-hex with role viewer or operator", n)
		}
		hash, err := hex.DecodeString(parts[2])
		if err != nil || len(hash) != sha256.Size {
			return nil, fmt.Errorf("tokens: line %d has no SHA-256 in hexadecimal", n)
		}
		list = append(list, token{parts[0], parts[1], [sha256.Size]byte(hash)})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("tokens: none found in %d lines", n)
	}
	return list, nil
}

// OperatorTokens accepts each of some secrets, which white space separates, with
// the operator's role: more than one while they are being replaced.
func OperatorTokens(name, secrets string) *Tokens {
	var list []token
	for secret := range strings.FieldsSeq(secrets) {
		list = append(list, token{name, RoleOperator, sha256.Sum256([]byte(secret))})
	}
	return &Tokens{list: func() []token { return list }}
}

// Require lets requests pass whose bearer has the role: 401 without a known
// token, 403 with too small a role. Handlers find out who it is by [Actor]. A request
// whose context is of [Sessions.Resume] needs no bearer.
func (t *Tokens) Require(role string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, ok := r.Context().Value(actorKey{}).(token)
			if !ok {
				who, ok = t.find(r.Header.Get("Authorization"))
			}
			switch {
			case !ok:
				WriteProblem(w, NewProblem(http.StatusUnauthorized, "unauthorized", "a valid bearer token is required"))
			case role == RoleOperator && who.role != RoleOperator:
				WriteProblem(w, NewProblem(http.StatusForbidden, "forbidden", "this needs the operator role"))
			default:
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), actorKey{}, who)))
			}
		})
	}
}

// find compares with every token, so that its time says nothing about any.
func (t *Tokens) find(authorization string) (found token, ok bool) {
	scheme, secret, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return token{}, false
	}
	hash := sha256.Sum256([]byte(secret))
	for _, candidate := range t.list() {
		if subtle.ConstantTimeCompare(hash[:], candidate.hash[:]) == 1 {
			found, ok = candidate, true
		}
	}
	return found, ok
}

type actorKey struct{}

// Actor returns name and role of the bearer that [Tokens.Require] let pass, or
// empty strings.
func Actor(ctx context.Context) (name, role string) {
	who, _ := ctx.Value(actorKey{}).(token)
	return who.name, who.role
}
