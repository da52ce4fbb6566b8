package signup

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestUsernameKey(t *testing.T) {
	for name, want := range map[string]string{
		"mina": "mina", "MINA": "mina", "m.i-n_a+1@x": "m.i-n_a+1@x",
		"Ｍｉｎａ":   "mina",                             // fullwidth
		"MÜLLER": "müller", "mu\u0308ller": "müller", // composed and decomposed
		"Βίος": "βίος", "ΒΊΟΣ": "βίοσ", // lower-casing ignores words, so these differ
		"ДАША": "даша", "даша": "даша", "раура": "раура", // Cyrillic; the last one looks like paypa
		"عمر": "عمر", "שרה": "שרה", "李小龍": "李小龍",
		"mi na": "", "mi\tna": "", "mi\x00na": "", "mi\u200bna": "", "mi\u00a0na": "", "ℌermann": "", "mina😀": "",
		"mi\u2028na": "",
		"עabc":       "", "abcע": "", // both directions in one name
		"mi\xffna": "",
	} {
		key, err := UsernameKey(name)
		if key != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", name, key, err, want)
		}
	}
}

// The key of a key is itself. Otherwise two members could have one name.
func FuzzUsernameKey(f *testing.F) {
	for _, name := range []string{"Mina", "ΒΊΟΣ", "ｍｉｎａ", "İstanbul", "ß", "mu\u0308ller", "עמר", "ﬁna", "Ǆ", "\u1e9e",
		"ϒ\u0301", "ﾊﾞ", "\u0345a"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		key, err := UsernameKey(name)
		if err != nil {
			return
		}
		if again, err := UsernameKey(key); err != nil || again != key {
			t.Errorf("%q: the key of %q is %q, %v", name, key, again, err)
		}
		if !utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			t.Errorf("%q: %q", name, key)
		}
	})
}

func TestReservedNames(t *testing.T) {
	standard := ParseReserved("standard")
	for _, name := range []string{
		"admin", "ADMIN", "Admin", "ａｄｍｉｎ", "root", "support", "postmaster", "hostmaster", "webmaster",
		"abuse", "noc", "security",
		"info", "marketing", "sales", "usenet", "news", "www", "uucp", "ftp", "mailer-daemon", "mailerdaemon",
		"no-reply", "noreply",
		"No.Reply", "post_master", "a.d.m.i.n", "admin!", "-root-", "adm1n", "r00t", "4dm1n", "@dmin", "supp0rt",
		"$ales", "he1p", "heIp",
		"аdmin", "аdmіn", "rооt", "suppοrt", "ѕupport", "rοοt", "ádmin", "root\u0301", "ӏnfo",
	} {
		key, err := UsernameKey(name)
		if err != nil || !standard.Has(key) {
			t.Errorf("%q may be taken: %v", name, err)
		}
	}
	for _, name := range []string{
		"mina", "adminna", "rooted", "minasupport", "helper", "information", "supporter1", "user", "test", "nobody",
		"админ", "李小龍", "...", "---",
	} {
		key, err := UsernameKey(name)
		if err != nil || standard.Has(key) {
			t.Errorf("%q is reserved: %v", name, err)
		}
	}
	own := ParseReserved("Acme, standard\nboss")
	for _, list := range []Reserved{ParseReserved("acme boss"), own} {
		if !list.Has("acme") || !list.Has("b0ss") || list.Has("root") != (len(list) > 2) {
			t.Errorf("%v", list)
		}
	}
	if none := ParseReserved("none"); len(none) != 0 || none.Has("") || none.Has("...") {
		t.Errorf("%v is reserved, want nothing", none)
	}
}

// Names of any script contain nothing invisible, and nothing that changes the direction of the text around
// them.
func TestUsernameHygiene(t *testing.T) {
	for _, name := range []string{
		"mi\u202ena", "mi\u202ana", "mi\u2066na", "mi\u2069na", "mi\u200ena", "mi\u200fna", "mi\u061cna", // directions
		"mi\u200bna", "mi\u200cna", "mi\u200dna", "mi\u2060na", "mi\ufeffna", "mi\u00adna", "mi\u180ena", // no width
		"mi\u034fna", "mi\ufe0fna", "mi\u3164na", "mi\u115fna", "mi\uffa0na", "mi\U000e0061na", // ignored
		"mi\x00na", "mi\r\nna", "mi\tna", "mi\x7fna", "mi\u0085na", "mi\x1bna", // controls
		"mi na", "mi\u00a0na", "mi\u3000na", "mi\u2003na", "mi\u2028na", "mi\u2029na", // separators
		"mi\ue000na", "mi\uffffna", "mi\xffna", // private or unassigned
	} {
		if key, err := UsernameKey(name); err == nil {
			t.Errorf("%q is accepted as %q", name, key)
		}
	}
}
