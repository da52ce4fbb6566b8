package email_test

import (
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/member-svc/internal/email"
)

func long(label string, n int) string { return strings.Repeat(label, n) }

func TestGoodAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"mina@example.org":                       "mina@example.org",
		"Mina.O'Hara+news_1@Example.ORG":         "Mina.O'Hara+news_1@example.org",
		"!#$%&'*+-/=?^_`{|}~@example.org":        "!#$%&'*+-/=?^_`{|}~@example.org",
		"1@2.example":                            "1@2.example",
		"a@b.co":                                 "a@b.co",
		"a@x--y.example":                         "a@x--y.example",
		"mina@bücher.example":                    "mina@xn--bcher-kva.example",
		"mina@BÜCHER.example":                    "mina@xn--bcher-kva.example",
		"mina@xn--bcher-kva.example":             "mina@xn--bcher-kva.example",
		"用户@例子.广告":                               "用户@xn--fsqu00a.xn--4rr70v",
		"юзер@екзампл.ком":                       "юзер@xn--80ajglhfv.xn--j1aef",
		"mu\u0308ller@example.org":               "mu\u0308ller@example.org",
		"עמר@example.org":                        "עמר@example.org",
		"अजय@डाटा.भारत":                          "अजय@xn--c2bd1gb.xn--h2brj9c",
		long("l", 64) + "@example.org":           long("l", 64) + "@example.org",
		"a@" + long("d", 63) + ".org":            "a@" + long("d", 63) + ".org",
		"a@" + long(long("d", 49)+".", 5) + "ab": "a@" + long(long("d", 49)+".", 5) + "ab", // 254 octets
		"mina@a.b.c.d.e.f.g.example.co.uk":       "mina@a.b.c.d.e.f.g.example.co.uk",
		"mina@123.example":                       "mina@123.example",
		"x@" + long("a.", 50) + "example.museum": "x@" + long("a.", 50) + "example.museum",
	} {
		got, err := email.Parse(address)
		if err != nil || got.String() != want {
			t.Errorf("%q is %q, %v; want %q", address, got, err, want)
		}
	}
}

func TestBadAddresses(t *testing.T) {
	for what, addresses := range map[string][]string{
		"no parts": {"", "@", "a", "a@", "@b.de", "a.b.de", "mina@", "@example.org"},
		"dots":     {".a@b.de", "a.@b.de", "a..b@b.de", "a@b..de", "a@.b.de", "a@b.de.", "a@b.de..", "a@."},
		"local part": {
			"a@b@c.de", "a b@c.de", `"a b"@c.de`, `"a"@c.de`, `a\@b.de`, "a,b@c.de", "a;b@c.de", "a:b@c.de",
			"<a@b.de>", "a(x)@b.de", "(x)a@b.de", "a[@b.de", "Mina <mina@example.org>", "mailto:a@b.de",
		},
		"domain": {
			"a@b", "a@localhost", "a@-b.de", "a@b-.de", "a@b.-de", "a@b.de-", "a@b_c.de", "a@b.d", "a@b.1",
			"a@b.123", "a@b!c.de", "a@b/c.de", "a@b.de/x", "a@b.de:25", "a@b.de?x", "a@ b.de", "a@xn--a.de",
			"a@xn--.de", "a@b.de(x)", "a@b,c.de",
		},
		"literals": {"a@[127.0.0.1]", "a@[IPv6:::1]", "a@127.0.0.1", "a@1.2.3.4", "a@::1", "a@0x7f.1"},
		"lengths": {
			long("l", 65) + "@b.de", long("ü", 33) + "@b.de", "a@" + long("d", 64) + ".de",
			"a@" + long("ü", 60) + ".de", "a@" + long(long("d", 49)+".", 5) + "abc",
			"a@" + long("d.", 130) + "de",
		},
		"controls": {
			"a\x00@b.de", "a@b\x00.de", "a\r\n@b.de", "a@b.de\r\n", "a@b.de\r\nBcc: c@d.de", "a@b.de\n",
			"\ta@b.de", "a@b.de ", " a@b.de", "a\x7f@b.de", "a\u0085@b.de", "a\x1b@b.de",
		},
		"separators": {
			"a\u2028@b.de", "a\u2029b@c.de", "a@b\u2028.de", "a\u00a0b@c.de", "a\u3000b@c.de", "a@b\u2003c.de",
			"a\u1680@b.de",
		},
		"bidi": {
			"a\u202e@b.de", "a\u202ab@c.de", "a@b\u202e.de", "a\u2066b@c.de", "a\u2069@b.de", "a\u200e@b.de",
			"a@b\u200fc.de", "a\u061c@b.de",
		},
		"zero width": {
			"a\u200b@b.de", "a\u200c@b.de", "a\u200d@b.de", "a@b\u200bc.de", "a@b\u200dc.de", "a\ufeff@b.de",
			"\ufeffa@b.de", "a\u2060@b.de", "a\u00ad@b.de", "a@b\u00adc.de", "a\u180e@b.de", "a\u034f@b.de",
			"a\ufe0f@b.de", "a\u3164@b.de", "a\u115f@b.de", "a\uffa0@b.de", "a\U000e0041@b.de",
		},
		"no letters": {
			"a\ufffd@b.de", "\xff@b.de", "a@b\xff.de", "a\ue000@b.de", "a\U000f0000@b.de", "a＠b.de", "a＠b@c.de",
			"a@b。de", "a@b．de", "a\u2024b@c.de", "😀@b.de", "a@😀.de", "a\uffff@b.de",
		},
		"mixed labels": {"a@עbc.de", "a@1ע.de"},
	} {
		for _, address := range addresses {
			if got, err := email.Parse(address); err == nil {
				t.Errorf("%s: %q is accepted as %q", what, address, got)
			}
		}
	}
}

func TestMailbox(t *testing.T) {
	for address, want := range map[string]string{
		"mina@example.org": "mina@example.org", "Mina@EXAMPLE.org": "mina@example.org",
		"mina+a+b@example.org": "mina@example.org",
		"+tag@example.org":     "tag@example.org", "MÜLLER@bücher.example": "müller@xn--bcher-kva.example",
		"mu\u0308ller@BÜCHER.example": "müller@xn--bcher-kva.example", "ｍｉｎａ@example.org": "mina@example.org",
		"mi.na@example.org": "mi.na@example.org",
	} {
		a, err := email.Parse(address)
		if err != nil || a.Mailbox() != want {
			t.Errorf("%q: %q, %v; want %q", address, a.Mailbox(), err, want)
		}
	}
}

// Every accepted address is valid in an SMTP command, and is accepted in the form in which it is sent.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"mina@example.org", "用户@例子.广告", "a\u202e@b.de", "a@b.de\r\nX"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		a, err := email.Parse(address)
		if err != nil {
			return
		}
		sent := a.String()
		if strings.ContainsAny(sent, " \r\n\t<>,;\"") || strings.Count(sent, "@") != 1 {
			t.Errorf("%q is sent as %q", address, sent)
		}
		if again, err := email.Parse(sent); err != nil || again != a {
			t.Errorf("%q is sent as %q, which is %q, %v", address, sent, again, err)
		}
	})
}
