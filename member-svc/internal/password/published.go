package password

import (
	"crypto/sha256"
	_ "embed" // for the list below
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// published holds fingerprints of published common passwords, folded and sorted. They come from the list of
// @zxcvbn-ts/language-common 4.1.3, whose licence (MIT) is in gen. To update the list, review the package, set
// its version here and its hash in gen, and run go generate.
//
//go:generate npm pack --silent @zxcvbn-ts/language-common@4.1.3
//go:generate go run ./gen zxcvbn-ts-language-common-4.1.3.tgz published.bin
//go:generate rm zxcvbn-ts-language-common-4.1.3.tgz
//go:embed published.bin
var published string

const (
	// publishedMin and publishedMax bound the length of folded passwords in the list; others are left out.
	publishedMin, publishedMax = 5, 20
	// printLength is the length of a fingerprint in bytes. One of 25 million other texts collides with a listed
	// one.
	printLength = 5
)

// PackPublished returns the fingerprints of a list of passwords.
func PackPublished(passwords []string) []byte {
	var prints []string
	for _, password := range passwords {
		if key := newFolded(password).key; len(key) >= publishedMin && len(key) <= publishedMax {
			prints = append(prints, fingerprint(key))
		}
	}
	slices.Sort(prints)
	return []byte(strings.Join(slices.Compact(prints), ""))
}

// folded is a text without the variations that people use to make a password look different.
type folded struct {
	text string // in lower case, without width and style, repeated characters collapsed
	// key is text with leet symbols replaced by letters, without separators, and with repeated characters
	// collapsed again. Byte i of key comes from text[from[i]:to[i]].
	key      string
	from, to []int
}

func newFolded(text string) folded {
	f := folded{text: single(plain(text))}
	var last rune
	for at, r := range leet.Replace(f.text) { // replaces one byte by one byte
		end := at + utf8.RuneLen(r)
		switch {
		case !unicode.IsLetter(r) && !unicode.IsDigit(r): // a separator
		case r == last:
			f.to[len(f.to)-1] = end
		default:
			last = r
			f.key += string(r)
			for len(f.to) < len(f.key) {
				f.from, f.to = append(f.from, at), append(f.to, end)
			}
		}
	}
	return f
}

// isPublished reports whether a password is a published one, once or repeated, forwards or backwards. Around it
// there may be only runs, digits and symbols, with no more different digits and symbols than the published password
// has characters. With other letters around it, it counts as another password: a phrase may begin with a
// published one.
func isPublished(password string) bool {
	f := newFolded(password)
	guessed := make([]bool, len(f.text))
	markRuns(f.text, guessed)
	letter := len(f.text) // position of the first letter that the published password must cover
	for at, r := range f.text {
		if unicode.IsLetter(r) && !guessed[at] {
			letter = at
			break
		}
	}
	for from := 0; from < len(f.key) && f.from[from] <= letter; from++ {
		for to := from + publishedMin; to <= min(from+publishedMax, len(f.key)); to++ {
			if part := f.key[from:to]; listed(part) && f.isLittleBut(part, slices.Clone(guessed)) {
				return true
			}
		}
	}
	return false
}

// isLittleBut reports whether a text, besides part and what is guessed already, has no letters and no more
// different characters than part has.
func (f folded) isLittleBut(part string, guessed []bool) bool {
	for _, part := range []string{part, reversed(part)} {
		for from := range len(f.key) - len(part) + 1 {
			if strings.HasPrefix(f.key[from:], part) {
				mark(guessed, f.from[from], f.to[from+len(part)-1])
			}
		}
	}
	rest := map[rune]bool{}
	for at, r := range f.text {
		if guessed[at] {
			continue
		}
		if unicode.IsLetter(r) {
			return false
		}
		rest[r] = true
	}
	return len(rest) <= len(part)
}

func listed(key string) bool {
	return hasPrint(fingerprint(key)) || hasPrint(fingerprint(reversed(key)))
}

func fingerprint(key string) string {
	sum := sha256.Sum256([]byte(key))
	return string(sum[:printLength])
}

func hasPrint(print string) bool {
	low, high := 0, len(published)/printLength
	for low < high {
		middle := (low + high) / 2
		if published[middle*printLength:][:printLength] < print {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return strings.HasPrefix(published[low*printLength:], print)
}
