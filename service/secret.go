package service

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
)

// Secret is a configured value that must not be printed: a password, a token, a
// key, or a URL that may hold one. However it is formatted or logged, it shows
// only where a URL points to. Immutable, safe for concurrent use.
type Secret struct{ value, file string }

// NewSecret returns a secret that comes from no file.
func NewSecret(value string) Secret { return Secret{value: value} }

// UnmarshalText implements encoding.TextUnmarshaler, for [LoadConfig].
func (s *Secret) UnmarshalText(text []byte) error {
	s.value = string(text)
	return nil
}

// Reveal returns the value as it was at the start.
func (s Secret) Reveal() string { return s.value }

// Current returns what the secret's file says now. Without a file, and while it
// cannot be read or is empty, that is the value at the start.
func (s Secret) Current() string {
	if s.file != "" {
		if now, err := readSecret(s.file); err == nil && now != "" {
			return now
		}
	}
	return s.value
}

// readSecret returns the text of a file without the line break at its end.
func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimRight(string(b), "\r\n"), unreadable(err)
}

// unreadable says what to do if err is that a file may not be read.
func unreadable(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: this process runs as uid %d, let that user read the file (chmod a+r, or chown)",
			err, os.Getuid())
	}
	return err
}

// String returns scheme and host of each URL in a list, and the database if it
// is Postgres; of anything else it says that it is there.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	const hidden = "[redacted]"
	var shown []string
	for part := range strings.SplitSeq(s.value, ",") {
		u, err := url.Parse(part)
		postgres := err == nil && strings.HasPrefix(u.Scheme, "postgres")
		switch {
		case err != nil || u.Host == "", !postgres &&
			!slices.Contains([]string{"nats", "tls", "http", "https"}, u.Scheme):
			return hidden
		case u.User == nil && strings.Contains(part, "@"): // a password with a separator in it
			return hidden
		case postgres:
			shown = append(shown, u.Scheme+"://"+u.Host+u.Path)
		default:
			shown = append(shown, u.Scheme+"://"+u.Host)
		}
	}
	return strings.Join(shown, ",")
}

// GoString is [Secret.String], for %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
