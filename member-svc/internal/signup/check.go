package signup

import (
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gofrs/uuid/v5"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"

	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// Invalid says what is wrong with a request, never with which value.
type Invalid struct{ Fields []service.FieldError }

// Error implements error.
func (Invalid) Error() string { return "the request is not valid" }

// check fills in defaults, normalises, and returns the member to be, or an Invalid.
func (s *Service) check(req *Request) (store.Member, error) {
	if req.Plan == "" {
		req.Plan = s.cfg.Plans[0]
	}
	// The same password typed on two keyboards has to be the same bytes.
	req.Password = norm.NFC.String(req.Password)
	key, err := UsernameKey(req.Username)
	var wrong []service.FieldError
	if err != nil || len(key) < 3 || len(key) > 30 {
		wrong = append(wrong, service.FieldError{Pointer: "/username", Detail: "must be 3 to 30 ASCII letters, digits or signs"})
	}
	switch n := utf8.RuneCountInString(req.Password); {
	case n < s.cfg.PasswordMin || n > 256:
		wrong = append(wrong, service.FieldError{Pointer: "/password", Detail: fmt.Sprintf("must be %d to 256 characters", s.cfg.PasswordMin)})
	case common(req.Password, key):
		wrong = append(wrong, service.FieldError{Pointer: "/password", Detail: "is too easy to guess"})
	}
	if !slices.Contains(s.cfg.Plans, req.Plan) {
		wrong = append(wrong, service.FieldError{Pointer: "/plan", Detail: "must be one of " + strings.Join(s.cfg.Plans, ", ")})
	}
	if a, err := mail.ParseAddress(req.Email); req.Email != "" && (err != nil || a.Address != req.Email || len(req.Email) > 254) {
		wrong = append(wrong, service.FieldError{Pointer: "/email", Detail: "must be an email address, or absent"})
	}
	if wrong != nil {
		return store.Member{}, Invalid{wrong}
	}
	id, err := uuid.NewV7()
	return store.Member{ID: id.String(), Username: req.Username, UsernameKey: key, Email: req.Email, Plan: req.Plan}, err
}

// UsernameKey returns what makes a username unique: the name by the PRECIS profile
// UsernameCaseMapped, ASCII only.
func UsernameKey(username string) (string, error) {
	if strings.ContainsFunc(username, func(r rune) bool { return r > '~' }) {
		return "", errors.New("a username is ASCII only")
	}
	return precis.UsernameCaseMapped.String(username)
}

// guessed are the parts that guessable long passwords are made of, longest first:
// words, and what lies side by side on a keyboard or in a sequence.
var guessed = func() []string {
	parts := strings.Fields(`password passwort passw0rd p@ssword p@ssw0rd iloveyou letmein welcome football baseball princess
		sunshine trustno1 changeme superman batman dragon monkey master shadow secret admin login hello qazwsx 1q2w3e4r
		1q2w3e zaq12wsx abc123 pass test user love`)
	for _, run := range strings.Fields(`qwertyuiop qwertzuiop asdfghjkl zxcvbnm yxcvbnm abcdefghijklmnopqrstuvwxyz 12345678901234567890 9876543210`) {
		for n := 4; n <= len(run); n++ {
			for i := range len(run) - n + 1 {
				parts = append(parts, run[i:i+n])
			}
		}
	}
	slices.SortStableFunc(parts, func(a, b string) int { return len(b) - len(a) })
	return parts
}()

// common reports whether little of a password is left once the username and the
// guessable parts are taken away, or whether it repeats a few characters only.
func common(password, usernameKey string) bool {
	rest := strings.ToLower(password)
	if len(usernameKey) >= 3 {
		rest = strings.ReplaceAll(rest, usernameKey, "")
	}
	distinct := map[rune]bool{}
	for _, r := range rest {
		distinct[r] = true
	}
	for _, part := range guessed {
		rest = strings.ReplaceAll(rest, part, "")
	}
	return len(distinct) < 5 || utf8.RuneCountInString(rest) < 5
}
