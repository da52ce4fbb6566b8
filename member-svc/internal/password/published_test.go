package password

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// Published passwords are refused: as they are, repeated, with a date or a sign, reversed, in capitals or with
// symbols for letters.
func TestPublishedPasswords(t *testing.T) {
	passwords := strings.Fields(`mailcreated5240 polniypizdec0211 123456789987654321 1qaz2wsx3edc4rfv momsanaladventure
		hd764nw5d7e1vb1 qazwsxedcrfvtgb 23176djivanfros 123456789qwerty 12345678900987654321 qwerty123456789
		polniypizdec110211 12345678987654321 q1w2e3r4t5y6u7i8 zqjphsyf6ctifgu lhbjkjubz2957704 1qazxsw23edcvfr4
		nemvxyheqdd5oqxyxyzi passwordpassword 1234qwerasdfzxcv 1234567890987654321 1234567890qwerty
		q1w2e3r4t5y6u7i8o9p0 passwordstandard bpgjldsgjldthnf 1234567887654321 zxcvbnm123456789 122333444455555
		111222333444555 qwertyuiop12345 1qa2ws3ed4rf5tg nick1234-rem936 qwertasdfgzxcvb aksjdlasdakj89879
		lytdybrbdfvgbhf passwordassword 420842084208555 polniypizdec1102 ne_e_pod_chehyl hd764nw5d7e1vbv
		bhrh0h2oof6xbqjeh`) // all of the list with 15 characters or more
	if len(passwords) != 41 {
		t.Fatalf("%d passwords", len(passwords))
	}
	for _, password := range append(passwords,
		"charliecharliecharlie", "Michelle-Michelle!", "yellow yellow yellow", "hannahhannah2784", "michelle ellehcim",
		"michelle06121987", "14061991!140619?1", "M1chelleM1chelle", "MICHELLE!!!!!2026", "$unshine2026!!!!",
		"mustang1234567890", "qwerty-mustang-1234", "rehtaehrehtaeh1", "c.h.o.c.o.l.a.t.e.2.0",
		"ｃｈｏｃｏｌａｔｅ２０２６！！",
		"iloveyouiloveyou", "dragondragondragon1",
	) {
		if !common(password, "mina", "mina.berg@example.org") {
			t.Errorf("%q is not refused", password)
		}
	}
}

// A phrase may consist of published passwords, or of one and more: other letters beside it make it another
// password, as do many different digits and symbols.
func TestPhrasesOfPublishedPasswordsPass(t *testing.T) {
	for _, password := range []string{
		"yellow michelle chocolate", "orange mother summer winter", "charlie met jennifer", "killer-whale-4-breakfast",
		"computersoccertigger", "no room for ever", "I love you forever", "chocolate is brown", "michelle, ma belle",
		"chocolate chocolates", "mustang#*%&-?;:_~", "chocolate83625149720",
	} {
		if common(password, "mina", "mina.berg@example.org") {
			t.Errorf("%q is refused", password)
		}
	}
}

// Phrases of three to five very common words pass.
func TestPhrasesOfUsualWordsPass(t *testing.T) {
	words := strings.Fields(`the of and to in is you that it he was for on are as with his they be at one have this from
		or had by hot but some what there we can out other were all your when up use word how said an each she which do
		their time if will way about many then them would write like so these her long make thing see him two has look
		more day could go come did my sound no most number who over know water than call first people may down side
		been now find any new work part take get place made live where after back little only round man year came show
		every good me give our under name very through just form much great think say help low line before turn cause
		same mean differ move right boy old too does tell sentence set three want air well also play small end put home
		read hand port large spell add even land here must big high such follow act why ask men change went light kind
		off need house picture try us again animal point mother world near build self earth father`)
	random := rand.New(rand.NewPCG(11, 28))
	for range 5000 {
		phrase := words[random.IntN(len(words))]
		for n := 3 + random.IntN(3); n > 1 || len(phrase) < 15; n-- {
			phrase += []string{" ", "-", ""}[n%3] + words[random.IntN(len(words))]
		}
		if common(phrase, "mina", "mina.berg@example.org") {
			t.Errorf("%q is refused", phrase)
		}
	}
}

// The list has each password that can be found, once, in order.
func TestPublishedPasswordsArePacked(t *testing.T) {
	packed := PackPublished([]string{"chocolate", "Ch0c0late", "choc.olate", "abc", strings.Repeat("ab", publishedMax)})
	if !bytes.Equal(packed, []byte(fingerprint("chocolate"))) {
		t.Errorf("%d bytes, want one fingerprint", len(packed))
	}
	if len(published)%printLength != 0 || len(published) < 200_000 || len(published) > 250_000 {
		t.Errorf("the list has %d bytes", len(published))
	}
	for at := printLength; at < len(published); at += printLength {
		if published[at-printLength:at] >= published[at:at+printLength] {
			t.Fatalf("out of order at %d", at)
		}
	}
}
