package signup

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gofrs/uuid/v5"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/email"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// PasswordMax is the maximum length of a password, in characters.
const PasswordMax = 256

// Invalid lists what is wrong with a request, never the values.
type Invalid struct{ Fields []wire.FieldError }

// Error implements error.
func (Invalid) Error() string { return "the request is not valid" }

// check fills in defaults, normalises req, and returns the new member, or an Invalid.
func (s *Service) check(req *Request) (store.Member, error) {
	if req.Plan == "" {
		req.Plan = s.cfg.Plans[0]
	}
	// The same password typed on two keyboards must give the same bytes.
	req.Password = norm.NFC.String(req.Password)
	key, err := UsernameKey(req.Username)
	var wrong []wire.FieldError
	switch n := utf8.RuneCountInString(key); {
	case err != nil || n < 3 || n > 30:
		wrong = append(wrong, wire.FieldError{Pointer: "/username", Detail: "must be 3 to 30 letters, digits or signs"})
	case !s.cfg.Unicode && strings.ContainsFunc(req.Username, func(r rune) bool { return r > '~' }):
		wrong = append(wrong, wire.FieldError{Pointer: "/username", Detail: "must be ASCII"})
	case s.cfg.Reserved.Has(key):
		wrong = append(wrong, wire.FieldError{Pointer: "/username", Detail: "is reserved; choose another one"})
	}
	if problem := s.CheckPassword(req.Password, key, req.Email); problem != "" {
		wrong = append(wrong, wire.FieldError{Pointer: "/password", Detail: problem})
	}
	if !slices.Contains(s.cfg.Plans, req.Plan) {
		wrong = append(wrong,
			wire.FieldError{Pointer: "/plan", Detail: "must be one of " + strings.Join(s.cfg.Plans, ", ")})
	}
	if _, err := email.Parse(req.Email); req.Email != "" && err != nil {
		wrong = append(wrong, wire.FieldError{Pointer: "/email", Detail: "must be an email address, or absent"})
	}
	if wrong != nil {
		return store.Member{}, Invalid{wrong}
	}
	id, err := uuid.NewV7()
	return store.Member{ID: id.String(), Username: req.Username, UsernameKey: key, Email: req.Email, Plan: req.Plan},
		err
}

// CheckPassword returns what is wrong with a member's password, or "".
func (s *Service) CheckPassword(password, usernameKey, email string) string {
	switch n := utf8.RuneCountInString(password); {
	case n < s.cfg.PasswordMin || n > PasswordMax:
		return fmt.Sprintf("must be %d to %d characters", s.cfg.PasswordMin, PasswordMax)
	case common(password, usernameKey, email):
		return "is too easy to guess"
	}
	return ""
}

// InvalidField returns an [Invalid] about one field.
func InvalidField(pointer, detail string) Invalid {
	return Invalid{Fields: []wire.FieldError{{Pointer: pointer, Detail: detail}}}
}

// UsernameKey returns the unique form of a username: the PRECIS profile UsernameCaseMapped (RFC 8265), which
// maps case and width and normalises. The key of a key is itself. Names that merely look alike have different
// keys.
func UsernameKey(username string) (string, error) {
	return precis.UsernameCaseMapped.String(username)
}
