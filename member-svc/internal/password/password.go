// Package password decides which passwords are accepted, and hashes them. A policy refuses passwords that are too
// short, easy to guess or published. A [Hasher] computes argon2id in a bounded queue, with keys that are not in
// the database (peppers). The package does no I/O.
package password

import (
	"fmt"
	"unicode/utf8"
)

// MaxLength is the maximum length of a password, in characters.
const MaxLength = 256

// Policy says which passwords members may choose.
type Policy struct {
	MinLength int // characters
}

// Check returns what is wrong with a password, or "". It refuses what can be guessed from the member's username and
// email address.
func (p Policy) Check(password, usernameKey, email string) string {
	switch n := utf8.RuneCountInString(password); {
	case n < p.MinLength || n > MaxLength:
		return fmt.Sprintf("must be %d to %d characters", p.MinLength, MaxLength)
	case common(password, usernameKey, email):
		return "is too easy to guess"
	}
	return ""
}
