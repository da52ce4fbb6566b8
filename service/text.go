package service

import (
	"strings"
	"unicode"
)

// maxText is the length of the longest text that [CleanText] returns, in bytes.
const maxText = 500

// CleanText makes a foreign text, such as another program's error, safe for a Postgres column and for an
// operator's screen. It removes control characters, and the direction and zero-width characters that make a text
// read as something else. White space becomes a space. The result has at most 500 bytes.
func CleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		default:
			return -1
		}
	}, strings.ToValidUTF8(s, ""))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
