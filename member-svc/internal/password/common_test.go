package password

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Guessable passwords are refused in every spelling: styled, full-width, reversed, repeated, with symbols for
// letters, or made of what is known about the member.
func TestPasswordsAreFolded(t *testing.T) {
	for _, password := range []string{
		"P@$$w0rdP@$$w0rd!", "P4SSW0RD-P4SSW0RD", "p a s s w o r d p a s s w o r d",
		"ｐａｓｓｗｏｒｄｐａｓｓｗｏｒｄ",
		"𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝𝐩𝐚𝐬𝐬",
		"mina.berg@example.org", "minaberg-example", "Mina.Berg.Mina.Berg", "gro.elpmaxe@greb.anim",
		"anim-anim-anim-anim", "M1n4-M1n4-M1n4-2026", "ｍｉｎａｍｉｎａｍｉｎａｍｉｎａ",
		"correcthorsebatterystaple", "CorrectHorseBatteryStaple1!",
		"correct horse battery staple", "SignupSaga2026!", "sunsh1ne-sunsh1ne", "1l0vey0u1l0vey0u",
	} {
		if !common(password, "mina", "mina.berg@example.org") {
			t.Errorf("%q is not refused", password)
		}
	}
}

// Random phrases pass: none of 10,000 counts as guessable.
func TestRandomPhrasesPass(t *testing.T) {
	syllables := strings.Fields("ba co du fe gi ho ju ka le mi no pu ra se ti vo wu xa ye zo bra cle dri flo gru pla")
	random := rand.New(rand.NewPCG(1, 2)) // the same phrases each time
	for range 10_000 {
		var phrase []string
		for range 4 {
			word := ""
			for range 2 + random.IntN(2) {
				word += syllables[random.IntN(len(syllables))]
			}
			phrase = append(phrase, word)
		}
		password := strings.Join(phrase, " ")
		if different := len(slices.Compact(slices.Sorted(slices.Values([]rune(password))))); different < 8 {
			continue // too few different characters for a phrase
		}
		if common(password, "mina", "mina.berg@example.org") {
			t.Errorf("%q is refused", password)
		}
	}
}

func TestCommonPasswords(t *testing.T) {
	for _, password := range []string{
		"PasswordPassword", "passw0rd!1234567890", "qwertyuiop123456789", "1qaz2wsx3edc4rfv", "q1w2e3r4t5y6u7i8o9p0",
		"1qazxsw23edcvfr4",
		"12345678987654321", "122333444455555", "111222333444555", "qwertasdfgzxcvb", "zxcvbnm,asdfghjkl",
		"aaaaaaaaaaaaaaaaaaaa", "abababababababab",
		"iloveyouiloveyou1", "letmein-letmein-letmein", "mina-mina-mina-mina", "MINA123456789012",
		"welcome to football", "abcdefghijklmnopqrstuvwxyz",
	} {
		if !common(password, "mina", "") {
			t.Errorf("%q is not refused", password)
		}
	}
	for _, password := range []string{
		"correct horse battery", "a long enough one", "påsswörd-är-löng", "fifteen charact", "ab cd efgh ab cd efgh",
		"my password is 7 stars", "minarets are tall", "каждый охотник желает",
		"7392 1846 0275 93", "LZXQ4TPBWYD3NKMF", "中文密碼一二三四五六七八九十百", "ab\ncd\nefgh\nijkl\nmn",
	} {
		if common(password, "mina", "") {
			t.Errorf("%q is refused", password)
		}
	}
}
