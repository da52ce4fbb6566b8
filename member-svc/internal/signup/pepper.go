package signup

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
)

// Peppers are secret keys without which a stolen database does not tell whether a
// password is right. The zero value is none. Immutable, safe for concurrent use.
type Peppers struct {
	newest string // id of the one that new hashes use
	keys   map[string][]byte
}

// The PHC string format gives a key id no more than 8 bytes.
var pepperID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,8}$`)

const minPepper = 16 // bytes

// ParsePeppers reads lines id:base64; empty lines and lines that begin with # are
// skipped. The first one is for new hashes, the others are for those that were made
// with them; with a first line "none" new hashes have no pepper. Errors name the
// line, never what is in it.
func ParsePeppers(text string) (Peppers, error) {
	p := Peppers{keys: map[string][]byte{}}
	n, first := 0, true
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if first && line == "none" {
			first = false
			continue
		}
		id, encoded, _ := strings.Cut(line, ":")
		key, err := base64.StdEncoding.DecodeString(encoded)
		switch {
		case !pepperID.MatchString(id) || err != nil || len(key) < minPepper:
			return Peppers{}, fmt.Errorf(
				"line %d is not id:base64 with an id of 1 to 8 letters and digits and a key of %d bytes or more", n,
				minPepper)
		case p.keys[id] != nil:
			return Peppers{}, fmt.Errorf("line %d has the id of an earlier one", n)
		case first:
			p.newest = id
		}
		p.keys[id], first = key, false
	}
	return p, nil
}

// season returns what is hashed instead of the password; [ErrNoPepper] if the key is
// not known. Without an id it is the password.
func (p Peppers) season(id, password string) ([]byte, error) {
	if id == "" {
		return []byte(password), nil
	}
	key, ok := p.keys[id]
	if !ok {
		return nil, fmt.Errorf("%w: its id is %q", ErrNoPepper, id)
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(password))
	return h.Sum(nil), nil
}
