package signup

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gofrs/uuid/v5"
	"golang.org/x/text/unicode/norm"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/email"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// Invalid lists what is wrong with a request, never the values.
type Invalid struct{ Fields []wire.FieldError }

// Error implements error.
func (Invalid) Error() string { return "the request is not valid" }

// check fills in defaults, normalises req, and returns the new member, or an Invalid.
func (s *Service) check(req *wire.NewMember, usernameKey string) (store.Member, error) {
	if req.Plan == "" {
		req.Plan = s.cfg.Plans[0]
	}
	// The same password typed on two keyboards must give the same bytes.
	req.Password = norm.NFC.String(req.Password)
	var wrong []wire.FieldError
	switch n := utf8.RuneCountInString(usernameKey); {
	case n < 3 || n > 30:
		const detail = "must be 3 to 30 letters, digits or symbols"
		wrong = append(wrong, wire.FieldError{Pointer: "/username", Detail: detail})
	case !s.cfg.Unicode && strings.ContainsFunc(req.Username, func(r rune) bool { return r > '~' }):
		wrong = append(wrong, wire.FieldError{Pointer: "/username", Detail: "must be ASCII"})
	case s.cfg.Reserved.Has(usernameKey):
		wrong = append(wrong, wire.FieldError{Pointer: "/username", Detail: "is reserved; choose another one"})
	}
	if problem := s.cfg.Passwords.Check(req.Password, usernameKey, req.Email); problem != "" {
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
	return store.Member{
		ID: id.String(), Username: req.Username, UsernameKey: usernameKey, Email: req.Email, Plan: req.Plan,
	}, err
}

// InvalidField returns an [Invalid] about one field.
func InvalidField(pointer, detail string) Invalid {
	return Invalid{Fields: []wire.FieldError{{Pointer: pointer, Detail: detail}}}
}
