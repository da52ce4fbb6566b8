package password

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
)

// Peppers are secret keys. Without them, a stolen database does not reveal whether a password is right. The
// zero value has no keys. Peppers are immutable and safe for concurrent use.
type Peppers struct {
	newest string // id of the key for new hashes
	keys   map[string][]byte
}

// The PHC string format gives a key id no more than 8 bytes.
var pepperID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,8}$`)

const minPepper = 16 // bytes

// ParsePeppers reads lines of the form id:base64; it skips empty lines and lines that begin with #. The first
// key is used for new hashes, the others only check the hashes that were made with them. If the first line is
// "none", new hashes have no pepper. Errors name the line, never its content.
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

// season returns what is hashed instead of the password, or [ErrNoPepper] if the key is unknown. Without an id
// it returns the password.
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
