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

// NewSecret returns a secret that does not come from a file.
func NewSecret(value string) Secret { return Secret{value: value} }

// UnmarshalText implements encoding.TextUnmarshaler, for [LoadConfig].
func (s *Secret) UnmarshalText(text []byte) error {
	s.value = string(text)
	return nil
}

// Reveal returns the value as it was at the start.
func (s Secret) Reveal() string { return s.value }

// Current returns the present content of the secret's file. Without a file, or if the file cannot be read or is
// empty, it returns the value at the start.
func (s Secret) Current() string {
	if s.file != "" {
		if now, err := readSecret(s.file); err == nil && now != "" {
			return now
		}
	}
	return s.value
}

// readSecret returns the text of a file without line breaks at its end.
func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimRight(string(b), "\r\n"), unreadable(err)
}

// unreadable adds what to do if err means that this process may not read a file.
func unreadable(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: this process runs as uid %d, let that user read the file (chmod a+r, or chown)",
			err, os.Getuid())
	}
	return err
}

// String returns scheme and host of each URL in a list, and the database if it is a Postgres URL. For any other
// value it shows only that there is one.
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
		case u.User == nil && strings.Contains(part, "@"): // a password that contains a separator
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
