package service

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"regexp"
	"strings"
	"time"
)

const (
	// shortestToken is the length of the shortest token that is accepted, in bytes. The file holds hashes, so a
	// short token is detected only when it is used.
	shortestToken = 12
	// expiresSoon is how long before a token's expiry a warning is logged.
	expiresSoon = 14 * 24 * time.Hour
)

func parseTokens(text string) (list []token, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		t, err := parseToken(line)
		if err == nil {
			err = conflict(list, t)
		}
		if err != nil {
			return nil, fmt.Errorf("tokens: line %d %w", n, err)
		}
		list = append(list, t)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("tokens: none found in %d lines", n)
	}
	return list, nil
}

func parseToken(line string) (t token, err error) {
	parts := strings.SplitN(line, ":", 4)
	if len(parts) < 3 || parts[0] == "" || (parts[1] != RoleViewer && parts[1] != RoleOperator) {
		return t, errors.New("is not name:role:sha256-hex[:expiry] with role viewer or operator")
	}
	hash, err := hex.DecodeString(parts[2])
	if err != nil || len(hash) != sha256.Size {
		return t, errors.New("has no SHA-256 in hexadecimal")
	}
	t = token{name: parts[0], role: parts[1], hash: [sha256.Size]byte(hash)}
	if trivial(t.hash) {
		return t, errors.New("is the hash of two characters or fewer: make a token with the subcommand admin-token")
	}
	if len(parts) == 4 {
		t.expires, err = parseExpiry(parts[3])
	}
	return t, err
}

func parseExpiry(text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, errors.New("has an expiry that is neither a date such as 2027-01-31 nor an RFC 3339 time")
}

// conflict checks a line against those before it. The audit identifies people by the names of their tokens, so a
// name has one token, or several during a replacement; then all but one must expire.
func conflict(list []token, t token) error {
	for _, other := range list {
		switch {
		case t.hash == other.hash:
			return errors.New("has the token of an earlier line")
		case t.name == other.name && (t.role != other.role || t.expires.IsZero() && other.expires.IsZero()):
			return errors.New("has the name of an earlier line: " +
				"choose another name or, to replace a token, use the same role and give the old line an expiry")
		}
	}
	return nil
}

// trivial reports whether a hash is that of two printable characters or fewer.
func trivial(hash [sha256.Size]byte) bool {
	if hash == sha256.Sum256(nil) {
		return true
	}
	for a := byte(' '); a <= '~'; a++ {
		if hash == sha256.Sum256([]byte{a}) {
			return true
		}
		for b := byte(' '); b <= '~'; b++ {
			if hash == sha256.Sum256([]byte{a, b}) {
				return true
			}
		}
	}
	return false
}

// weak reports whether a secret is too short for 128 random bits, or not random.
func weak(secret string) bool {
	shortest := 22 // of the 62 letters and digits
	if strings.Trim(secret, "0123456789abcdefABCDEF") == "" {
		shortest = 32
	}
	different := map[rune]bool{}
	for _, r := range secret {
		different[r] = true
	}
	return len(secret) < shortest || len(different) < 8
}

func warnOfExpiry(log *slog.Logger, list []token) {
	for _, t := range list {
		switch {
		case t.expired():
			log.Warn("admin token has expired: remove its line", "name", t.name, "expired", t.expires)
		case !t.expires.IsZero() && time.Until(t.expires) < expiresSoon:
			log.Warn("admin token expires soon: make a new one with the subcommand admin-token",
				"name", t.name, "expires", t.expires)
		}
	}
}

// tokenPrefix begins each token that the subcommand admin-token makes, so that scanners find leaked ones. It is
// followed by 130 random bits and a checksum, which distinguishes typing errors from wrong tokens.
const tokenPrefix = "sgadmin_"

var (
	tokenName     = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)
	tokenChecksum = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// NewToken returns a new token and the line that accepts it; expires may be zero.
func NewToken(name, role string, expires time.Time) (secret, line string, err error) {
	if !tokenName.MatchString(name) {
		return "", "", errors.New("the name must be 1 to 64 letters, digits or characters of ._@-")
	}
	if role != RoleViewer && role != RoleOperator {
		return "", "", errors.New("the role must be viewer or operator")
	}
	random := strings.ToLower(rand.Text())
	secret = tokenPrefix + random + checksum(random)
	sum := sha256.Sum256([]byte(secret))
	line = name + ":" + role + ":" + hex.EncodeToString(sum[:])
	if !expires.IsZero() {
		line += ":" + expires.UTC().Format(time.RFC3339)
	}
	return secret, line, nil
}

// misspelt reports whether a secret looks like a token of [NewToken] but has the wrong checksum.
func misspelt(secret string) bool {
	body, ok := strings.CutPrefix(secret, tokenPrefix)
	if !ok {
		return false
	}
	cut := max(0, len(body)-len(checksum("")))
	return checksum(body[:cut]) != body[cut:]
}

func checksum(text string) string {
	sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(text)))
	return strings.ToLower(tokenChecksum.EncodeToString(sum))
}
