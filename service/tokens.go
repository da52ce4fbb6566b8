package service

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// Roles of a token. An operator may do everything a viewer may.
const (
	RoleViewer   = "viewer"
	RoleOperator = "operator"
)

// Tokens authenticates bearers. Only hashes are kept. Immutable, safe for
// concurrent use.
type Tokens struct{ list []token }

type token struct {
	name, role string
	hash       [sha256.Size]byte
}

// LoadTokens reads a file for [ParseTokens].
func LoadTokens(path string) (*Tokens, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	return ParseTokens(string(b))
}

// ParseTokens reads lines name:role:sha256-hex; empty lines and lines that begin
// with # are skipped. Errors name the line, never what is in it. At least one
// token is required.
func ParseTokens(text string) (*Tokens, error) {
	t := &Tokens{}
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
		t.list = append(t.list, token{parts[0], parts[1], [sha256.Size]byte(hash)})
	}
	if len(t.list) == 0 {
		return nil, fmt.Errorf("tokens: none found in %d lines", n)
	}
	return t, nil
}

// OneToken accepts a single secret, with the operator's role.
func OneToken(name, secret string) *Tokens {
	return &Tokens{list: []token{{name, RoleOperator, sha256.Sum256([]byte(secret))}}}
}

// Require lets requests pass whose bearer has the role: 401 without a known
// token, 403 with too small a role. Handlers find out who it is by [Actor].
func (t *Tokens) Require(role string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, ok := t.find(r.Header.Get("Authorization"))
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
	for _, candidate := range t.list {
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
