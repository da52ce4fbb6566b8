package password

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Long passwords that are easy to guess consist of words, and of runs: neighbours on a keyboard or in a
// sequence, in either direction.
var (
	words = strings.Fields(`pasword paswort pasw0rd p@sword p@sw0rd iloveyou letmein welcome fotbal basebal princes
		sunshine trustno1 changeme superman batman corecthorsebaterystaple signupsaga dragon
		monkey master shadow secret admin login helo standard pas test user love`)
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
	runLength = 4 // adjacent characters that count as a run
	remainder = 5 // different characters that a password needs besides the guessable ones
)

// leet maps symbols and digits to the letters that they stand for.
var leet = strings.NewReplacer(
	"@", "a", "4", "a", "3", "e", "1", "i", "!", "i", "|", "i", "0", "o", "$", "s", "5", "s", "7", "t", "+", "t",
)

// contextWords returns what strangers know about a member: the username and the parts of the email address.
func contextWords(usernameKey, email string) []string {
	local, domain, _ := strings.Cut(email, "@")
	words := []string{usernameKey, local, domain, email}
	for _, part := range []string{usernameKey, local, domain} {
		words = append(words, strings.Fields(separators.Replace(part))...)
	}
	return words
}

var separators = strings.NewReplacer(".", " ", "-", " ", "_", " ", "+", " ", "@", " ")

// spelling is a form of a text. Words are searched in every form, runs only in forms that keep the separators.
type spelling struct {
	text string
	runs bool
}

// spellings returns the forms of a text: in lower case, without width and style, and with repeated characters
// collapsed; with and without leet symbols replaced by letters; with and without separators. The word list is
// spelt in the same way.
func spellings(text string) (forms []spelling) {
	lower := plain(text)
	for _, form := range []string{lower, leet.Replace(lower)} {
		forms = append(forms, spelling{single(form), true}, spelling{single(dense(form)), false})
	}
	return forms
}

// plain returns text in lower case, without variants of width and style.
func plain(text string) string { return strings.ToLower(norm.NFKC.String(text)) }

func dense(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, text)
}

// common reports whether a password is too easy to guess. It is if it consists mostly of guessable words, runs
// or what is known about the member, in either direction, if it only repeats a few characters, or if it is a
// published one.
func common(password, usernameKey, email string) bool {
	known := slices.Clone(words)
	for _, word := range contextWords(usernameKey, email) {
		for _, form := range spellings(word) {
			known = append(known, form.text, reversed(form.text))
		}
	}
	return isPublished(password) ||
		slices.ContainsFunc(spellings(password), func(form spelling) bool { return guessable(form, known) })
}

// guessable reports whether a text has too few different characters besides the words and runs in it.
func guessable(form spelling, words []string) bool {
	text := form.text
	guessed := make([]bool, len(text))
	for _, word := range words {
		for from := 0; len(word) >= 3; {
			i := strings.Index(text[from:], word)
			if i < 0 {
				break
			}
			mark(guessed, from+i, from+i+len(word))
			from += i + len(word)
		}
	}
	if form.runs {
		markRuns(text, guessed)
	}
	left := map[rune]bool{}
	for i, r := range text {
		if !guessed[i] {
			left[r] = true
		}
	}
	return len(left) < remainder
}

func markRuns(text string, guessed []bool) {
	for i := range max(0, len(text)-runLength+1) {
		if runs[text[i:i+runLength]] {
			mark(guessed, i, i+runLength)
		}
	}
}

func mark(guessed []bool, from, to int) {
	for i := from; i < to; i++ {
		guessed[i] = true
	}
}

func reversed(text string) string {
	runes := []rune(text)
	slices.Reverse(runes)
	return string(runes)
}

// single returns s with repeated characters collapsed to one. The words above are spelt like that.
func single(s string) string { return string(slices.Compact([]rune(s))) }
