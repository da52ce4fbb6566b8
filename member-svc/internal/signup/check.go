package signup

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gofrs/uuid/v5"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"

	"github.com/signup-saga/signup-saga/member-svc/internal/email"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// PasswordMax is the length of the longest password, in characters.
const PasswordMax = 256

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
	switch n := utf8.RuneCountInString(key); {
	case err != nil || n < 3 || n > 30:
		wrong = append(wrong, service.FieldError{Pointer: "/username", Detail: "must be 3 to 30 letters, digits or signs"})
	case !s.cfg.Unicode && strings.ContainsFunc(req.Username, func(r rune) bool { return r > '~' }):
		wrong = append(wrong, service.FieldError{Pointer: "/username", Detail: "must be ASCII"})
	case s.cfg.Reserved.Has(key):
		wrong = append(wrong, service.FieldError{Pointer: "/username", Detail: "is reserved; choose another one"})
	}
	if problem := s.CheckPassword(req.Password, key, req.Email); problem != "" {
		wrong = append(wrong, service.FieldError{Pointer: "/password", Detail: problem})
	}
	if !slices.Contains(s.cfg.Plans, req.Plan) {
		wrong = append(wrong, service.FieldError{Pointer: "/plan", Detail: "must be one of " + strings.Join(s.cfg.Plans, ", ")})
	}
	if _, err := email.Parse(req.Email); req.Email != "" && err != nil {
		wrong = append(wrong, service.FieldError{Pointer: "/email", Detail: "must be an email address, or absent"})
	}
	if wrong != nil {
		return store.Member{}, Invalid{wrong}
	}
	id, err := uuid.NewV7()
	return store.Member{ID: id.String(), Username: req.Username, UsernameKey: key, Email: req.Email, Plan: req.Plan}, err
}

// CheckPassword says what is wrong with a password of somebody, or "".
func (s *Service) CheckPassword(password, usernameKey, email string) string {
	switch n := utf8.RuneCountInString(password); {
	case n < s.cfg.PasswordMin || n > PasswordMax:
		return fmt.Sprintf("must be %d to %d characters", s.cfg.PasswordMin, PasswordMax)
	case common(password, usernameKey, email):
		return "is too easy to guess"
	}
	return ""
}

// InvalidField says that one field is wrong.
func InvalidField(pointer, detail string) Invalid {
	return Invalid{Fields: []service.FieldError{{Pointer: pointer, Detail: detail}}}
}

// UsernameKey returns what makes a username unique: the name by the PRECIS profile
// UsernameCaseMapped (RFC 8265), which maps case and width and normalises. The key of a
// key is itself. Names that merely look alike have different keys.
func UsernameKey(username string) (string, error) {
	return precis.UsernameCaseMapped.String(username)
}

// Guessable long passwords are made of words, and of what lies side by side on a
// keyboard or in a sequence, in either direction.
var (
	words = strings.Fields(`pasword paswort pasw0rd p@sword p@sw0rd iloveyou letmein welcome fotbal basebal princes sunshine
		trustno1 changeme superman batman dragon monkey master shadow secret admin login helo standard pas test user love`)
	runs = func() map[string]bool { // pieces of runLength
		pieces := map[string]bool{}
		for _, way := range strings.Fields(`abcdefghijklmnopqrstuvwxyz 12345678901234567890
			qwertyuiop qwertzuiop azertyuiop asdfghjkl qsdfghjklm zxcvbnm yxcvbnm wxcvbn
			1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p qazwsxedcrfvtgbyhnujmikolp 1qazxsw23edcvfr45tgbnhy67ujm
			1q2w3e4r5t6y7u8i9o0p q1w2e3r4t5y6u7i8o9p0 1qa2ws3ed4rf5tg6yh7uj8ik9ol`) {
			for i := range len(way) - runLength + 1 {
				piece := []byte(way[i : i+runLength])
				pieces[string(piece)] = true
				slices.Reverse(piece)
				pieces[string(piece)] = true
			}
		}
		return pieces
	}()
)

const (
	runLength = 4 // characters side by side that count as a run
	remainder = 5 // different characters that a password needs beside what can be guessed
)

// common reports whether a password, as a whole, is little but the username, guessable
// words and runs, or repeats a few characters only.
func common(password, usernameKey, _ string) bool {
	text := single(strings.ToLower(password))
	guessed := make([]bool, len(text))
	mark := func(from, to int) {
		for i := from; i < to; i++ {
			guessed[i] = true
		}
	}
	for _, word := range append([]string{single(usernameKey)}, words...) {
		for from := 0; len(word) >= 3; {
			i := strings.Index(text[from:], word)
			if i < 0 {
				break
			}
			mark(from+i, from+i+len(word))
			from += i + len(word)
		}
	}
	for i := range max(0, len(text)-runLength+1) {
		if runs[text[i:i+runLength]] {
			mark(i, i+runLength)
		}
	}
	left := map[rune]bool{}
	for i, r := range text {
		if !guessed[i] {
			left[r] = true
		}
	}
	return len(left) < remainder
}

// single returns s with equal characters side by side made one; the words above are
// spelt like that.
func single(s string) string { return string(slices.Compact([]rune(s))) }
