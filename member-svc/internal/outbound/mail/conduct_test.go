package mail_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/mail"
	"github.com/signup-saga/signup-saga/service"
)

// A greylisting server expects the letter again after some minutes, or an hour.
func TestGreylistingIsWaitedOut(t *testing.T) {
	for _, tc := range []struct {
		delay  time.Duration
		answer string
	}{
		{5 * time.Minute, "451 4.7.1 greylisted, try again later"},
		{5 * time.Minute, "450 4.2.0 greylisted, try again later"},
		{time.Hour, "451 4.7.1 greylisted, try again later"},
		{time.Hour, "450 4.2.0 greylisted, try again later"},
	} {
		t.Run(fmt.Sprintf("%v %s", tc.delay, tc.answer[:3]), func(t *testing.T) {
			var clock atomic.Int64 // a time.Duration
			s := newServer(t, "127.0.0.1:0", nil)
			f := open(t, s.addr)
			s.answer(func(command string) string {
				if strings.HasPrefix(command, "RCPT") && time.Duration(clock.Load()) < tc.delay {
					return tc.answer
				}
				return ""
			})
			for i := range 8 {
				f.letter(fmt.Sprintf("m%d", i), fmt.Sprintf("m%d@example.org", i))
			}
			for len(s.all()) < 8 && f.count("state = 'queued'") > 0 {
				if err := f.work(); err != nil {
					t.Fatal(err)
				}
				clock.Add(int64(f.untilDue()))
			}
			took := time.Duration(clock.Load()).Round(time.Second)
			if n := len(s.all()); n != 8 {
				t.Errorf("%d of 8 delivered after %v, counted %v", n, took, f.counted)
			}
			t.Logf("8 of 8 after %v, %d attempts", took, len(s.said("RCPT")))
		})
	}
}

// The allowed attempts are not used up long before the letter is too old.
func TestAttemptsAreSpreadOverTheLife(t *testing.T) {
	f := open(t, "127.0.0.1:1")
	for _, tc := range []struct {
		attempts int
		age      time.Duration
		covers   time.Duration // at least, if every attempt is deferred
	}{
		{20, 24 * time.Hour, 24 * time.Hour}, {20, 5 * 24 * time.Hour, 5 * 24 * time.Hour}, {20, time.Hour, time.Hour},
		{10, 24 * time.Hour, 6 * time.Hour}, {5, 24 * time.Hour, 6 * time.Hour}, {3, 24 * time.Hour, 4 * time.Hour},
		{100, time.Hour, time.Hour},
	} {
		f.cfg.MaxAttempts, f.cfg.MaxAge = tc.attempts, tc.age
		m := f.another()
		var sum time.Duration
		for n := 1; n < tc.attempts; n++ {
			wait := m.RetryAfter(n)
			if wait < 45*time.Second || wait > tc.age/8*5/4 {
				t.Errorf("%+v: %v after attempt %d", tc, wait, n)
			}
			sum += wait
		}
		if sum < tc.covers {
			t.Errorf("%+v: all attempts are used up after %v", tc, sum)
		}
	}
}

// A letter may have arrived if the server took its text and then did not answer. Copies are rare and few.
func TestEndInDoubt(t *testing.T) {
	for name, answer := range map[string]string{
		"hangs up": hangUp, "says nothing": silent, "talks nonsense": "what?", "says go on": "354 go on",
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, "127.0.0.1:0", to(".", answer))
			f := open(t, s.addr)
			f.mailer.HurryUp(5*time.Second, 300*time.Millisecond)
			f.letter("mina", "mina@example.org")
			var clock time.Duration
			for n := 1; f.count("state = 'queued'") > 0 && n < 20; n++ {
				if err := f.work(); err == nil || !strings.Contains(err.Error(), "end of DATA: ") {
					t.Fatalf("the server's end is in doubt, but: %v", err)
				}
				r := f.row()
				if r.Attempts != n || r.Copies != n || len(s.copies()) != n {
					t.Errorf("after %d copies: %+v", len(s.copies()), r)
				}
				if r.State == "queued" && r.Wait < 15*time.Minute-time.Second {
					t.Errorf("another copy after %v", r.Wait)
				}
				clock += f.untilDue()
			}
			if r := f.row(); r.State != "dropped" || len(s.copies()) != 3 || f.counted["dropped"] != 1 {
				t.Errorf("%d copies within %v, then %+v", len(s.copies()), clock, r)
			}
			var ids []string
			for _, text := range s.copies() {
				_, id, _ := strings.Cut(text, "Message-ID: ")
				id, _, _ = strings.Cut(id, "\r\n")
				ids = append(ids, id)
			}
			if len(slices.Compact(ids)) != 1 || ids[0] == "" {
				t.Errorf("the copies are not one message: %q", ids)
			}
		})
	}
}

// One copy in doubt is no failure: the next one may be confirmed.
func TestDoubtEndsWithAnAnswer(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", to(".", hangUp))
	f := open(t, s.addr)
	f.letter("mina", "mina@example.org")
	if err := f.work(); err == nil {
		t.Fatal("no error")
	}
	s.answer(to(".", "451 4.3.0 try again"))
	f.untilDue()
	if err := f.work(); err != nil {
		t.Fatal(err)
	}
	if r := f.row(); r.Copies != 1 || r.Attempts != 2 {
		t.Errorf("what the server did not take counts as a copy: %+v", r)
	}
	s.answer(nil)
	f.untilDue()
	if err := f.work(); err != nil || f.row().State != "sent" || len(s.all()) != 1 {
		t.Errorf("%v, %+v", err, f.row())
	}
}

// The meaning of each answer: for the letter, for the server, and for the reader of the row.
func TestAnswers(t *testing.T) {
	const away = true
	for _, tc := range []struct {
		verb, answer string
		state        string
		attempts     int
		away         bool
		reason       string
	}{
		{"greeting", "554 5.3.2 no service for you", "queued", 0, away, "greeting: 554 5.3.2 no service for you"},
		{"greeting", "421 4.3.2 too busy", "queued", 0, away, "greeting: 421 4.3.2 too busy"},
		{"greeting", hangUp, "queued", 0, away, "greeting: EOF"},
		{"EHLO", "421 4.3.2 too busy", "queued", 0, away, "EHLO: 421 4.3.2 too busy"},
		{"EHLO", "550 5.7.1 I do not like you", "sent", 0, !away, ""}, // HELO works
		{"EHLO", hangUp, "queued", 0, away, "EHLO: "},
		{"MAIL", "452 4.3.1 no room", "queued", 1, !away, "MAIL: 452 4.3.1 no room"},
		{"MAIL", "451 4.3.0 try later", "queued", 1, !away, "MAIL: 451 4.3.0 try later"},
		{"MAIL", "553 5.1.8 bad sender", "queued", 0, away, "MAIL: 553 5.1.8 bad sender; check MAIL_FROM"},
		{"MAIL", "503 5.5.1 EHLO first", "queued", 0, away, "MAIL: 503 5.5.1 EHLO first"},
		{"MAIL", "200 fine", "sent", 0, !away, ""},
		{"RCPT", "251 will forward", "sent", 0, !away, ""},
		{"RCPT", "220 fine", "sent", 0, !away, ""},
		{"RCPT", "503 AUTH first", "queued", 0, away, "RCPT: 503 AUTH first"},
		{"RCPT", "521 5.3.2 no mail here", "queued", 0, away, "RCPT: 521 5.3.2 no mail here; check SMTP_ADDR"},
		{"DATA", "502 5.5.1 what?", "queued", 0, away, "DATA: 502 5.5.1 what?"},
		{".", "200 fine", "sent", 0, !away, ""},
		{".", "500 5.5.2 line too long", "dropped", 1, !away, "end of DATA: 500 5.5.2 line too long"},
		{"MAIL", "530 5.7.0 Authentication required", "queued", 0, away,
			"MAIL: 530 5.7.0 Authentication required; set SMTP_USERNAME and SMTP_PASSWORD, or MAIL_TLS"},
		{"MAIL", "421 4.7.0 slow down", "queued", 0, away, "MAIL: 421 4.7.0 slow down"},
		{"RCPT", "450 4.2.0 greylisted", "queued", 1, !away, "RCPT: 450 4.2.0 greylisted"},
		{"RCPT", "452 4.2.2 mailbox full", "queued", 1, !away, "RCPT: 452 4.2.2 mailbox full"},
		{"RCPT", "552 5.2.2 mailbox full", "queued", 1, !away, "RCPT: 552 5.2.2 mailbox full"},
		{"RCPT", "550-5.1.1 <mina@example.org>\n550 5.1.1 no such mailbox Mina", "dropped", 1, !away,
			"RCPT: 550 5.1.1 <…> 5.1.1 no such mailbox …"},
		{"RCPT", "421 4.7.0 slow down", "queued", 0, away, "RCPT: 421 4.7.0 slow down"},
		{"RCPT", hangUp, "queued", 0, away, "RCPT: EOF"},
		{"DATA", "451 4.3.0 try later", "queued", 1, !away, "DATA: 451 4.3.0 try later"},
		{"DATA", "554 5.5.1 no valid recipients", "dropped", 1, !away, "DATA: 554 5.5.1 no valid recipients"},
		{"DATA", hangUp, "queued", 0, away, "DATA: EOF"},
		{".", "452 4.3.1 no room", "queued", 1, !away, "end of DATA: 452 4.3.1 no room"},
		{".", "552 5.3.4 too big", "dropped", 1, !away, "end of DATA: 552 5.3.4 too big"},
		{".", "554 5.7.1 spam", "dropped", 1, !away, "end of DATA: 554 5.7.1 spam"},
		{".", "421 4.3.2 going down", "queued", 0, away, "end of DATA: 421 4.3.2 going down"},
	} {
		t.Run(tc.verb+" "+tc.answer, func(t *testing.T) {
			s := newServer(t, "127.0.0.1:0", to(tc.verb, tc.answer))
			f := open(t, s.addr)
			f.letter("mina", "mina@example.org")
			err := f.work()
			if (err != nil) != tc.away || err != nil && !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("the loop sees %v", err)
			}
			r := f.row()
			if r.State != tc.state || r.Attempts != tc.attempts || r.Copies > 0 && r.State == "queued" ||
				!strings.HasPrefix(r.Error, tc.reason) {
				t.Errorf("%+v", r)
			}
			if text := r.Error + f.log.String() + fmt.Sprint(err); strings.Contains(strings.ToLower(text), "mina") {
				t.Errorf("the address is in %s", text)
			}
			if n := strings.Count(f.log.String(), tc.reason); !tc.away && tc.state != "sent" && n != 1 {
				t.Errorf("logged %d times:\n%s", n, f.log)
			}
			s.answer(nil)
			f.elapse(time.Hour)
			if err := f.work(); err != nil || tc.state == "queued" && f.row().State != "sent" {
				t.Errorf("an hour later: %v, %+v", err, f.row())
			}
		})
	}
}

// A server that refuses MAIL because of SMTPUTF8 may still accept other letters.
func TestRefusedMailBeyondASCII(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", func(command string) string {
		if strings.HasSuffix(command, " SMTPUTF8") {
			return "555 5.6.7 not here"
		}
		return ""
	})
	s.extensions = append(s.extensions, "SMTPUTF8")
	f := open(t, s.addr)
	f.letter("mina", "müller@example.org")
	if err := f.work(); err != nil {
		t.Fatal(err)
	}
	if r := f.row(); r.State != "dropped" || r.Error != "MAIL: 555 5.6.7 not here" {
		t.Errorf("%+v", r)
	}
}

// Each kind of answer is logged once, and rarely after that.
func TestRefusalsAreLoggedOncePerKind(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", func(command string) string {
		switch {
		case strings.HasPrefix(command, "RCPT TO:<m0@"):
			return "550 5.1.1 m0@example.org is nobody"
		case strings.HasPrefix(command, "RCPT"):
			return "450 4.2.0 " + strings.TrimPrefix(command, "RCPT TO:") + " is greylisted"
		}
		return ""
	})
	f := open(t, s.addr)
	for i := range 20 {
		f.letter(fmt.Sprintf("m%d", i), fmt.Sprintf("m%d@example.org", i))
	}
	if err := f.work(); err != nil {
		t.Fatal(err)
	}
	log := f.log.String()
	if strings.Count(log, "5.1.1 … is nobody") != 1 || strings.Count(log, "4.2.0 <…> is greylisted") != 5 ||
		strings.Contains(log, "example.org") {
		t.Errorf("logged\n%s", log)
	}
}

// A server that refuses to talk to us is tried again soon, then every minute, or every five minutes if someone
// has to change a setting. This costs no letter an attempt.
func TestServerThatRefusesIsLeftAlone(t *testing.T) {
	for answer, longest := range map[string]time.Duration{
		"421 4.3.2 too busy": time.Minute, "554 5.7.1 not you": 5 * time.Minute,
	} {
		s := newServer(t, "127.0.0.1:0", to("greeting", answer))
		f := open(t, s.addr)
		f.letter("mina", "mina@example.org")
		for n := range 30 {
			if err := f.work(); err == nil {
				t.Fatal("no error")
			}
			if _, err := f.mailer.Work(t.Context()); !errors.Is(err, service.ErrIdle) || s.greetings() != n+1 {
				t.Fatalf("the server is not left alone: %v", err)
			}
			quiet := f.mailer.Quiet()
			if want := min(5*time.Second<<min(n, 10), longest); quiet < want*3/4-time.Second || quiet > want*5/4 {
				t.Errorf("%s: %v after refusal %d, want about %v", answer, quiet, n, want)
			}
			if r := f.row(); r.Attempts != 0 || r.State != "queued" || r.Wait > 0 {
				t.Fatalf("%+v", r)
			}
		}
	}
}

// Many servers end a conversation after some letters: that is not an outage.
func TestConversationOfFewLetters(t *testing.T) {
	var letters atomic.Int64
	s := newServer(t, "127.0.0.1:0", func(command string) string {
		switch {
		case command == "greeting":
			letters.Store(0)
		case strings.HasPrefix(command, "MAIL") && letters.Add(1) > 3:
			return "421 4.7.0 too many letters in one conversation"
		}
		return ""
	})
	f := open(t, s.addr)
	for i := range 10 {
		f.letter(fmt.Sprintf("m%d", i), fmt.Sprintf("m%d@example.org", i))
	}
	for passes := 0; f.count("state = 'queued'") > 0; passes++ {
		if err := f.work(); err != nil || passes > 10 {
			t.Fatalf("pass %d: %v", passes, err)
		}
		f.untilDue()
	}
	if n := f.count("state = 'sent' AND attempts = 0"); n != 10 || len(s.all()) != 10 {
		t.Errorf("%d of 10 sent", n)
	}
}

// A letter at which the server breaks the conversation does not block the others.
func TestPoisonMailHoldsUpNobody(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", to("RCPT TO:<poison", hangUp))
	f := open(t, s.addr)
	f.letter("poison", "poison@example.org")
	f.letter("mina", "mina@example.org")
	f.letter("nora", "nora@example.org")
	if err := f.work(); err == nil {
		t.Error("no error")
	}
	f.mailer.Quiet()
	waits := "state = 'queued' AND attempts = 0 AND next_attempt_at > now() + interval '40 seconds'"
	if err := f.work(); err != nil || len(s.all()) != 2 || f.count(waits) != 1 {
		t.Errorf("%d mails, %v", len(s.all()), err)
	}
}

// Stopping the process does not wait for a mail server, and the result is stored.
func TestStopEndsTheConversation(t *testing.T) {
	for _, tc := range []struct {
		verb   string
		copies int
	}{{"greeting", 0}, {"RCPT", 0}, {".", 1}} {
		ctx, stop := context.WithCancel(t.Context())
		s := newServer(t, "127.0.0.1:0", func(command string) string {
			if strings.HasPrefix(command, tc.verb) {
				stop()
				return silent
			}
			return ""
		})
		f := open(t, s.addr)
		f.mailer.HurryUp(100*time.Millisecond, 20*time.Second)
		f.letter("mina", "mina@example.org")
		began := time.Now()
		if _, err := f.mailer.Work(ctx); err == nil || time.Since(began) > 5*time.Second {
			t.Errorf("%s: %v after %v", tc.verb, err, time.Since(began))
		}
		if r := f.row(); r.State != "queued" || r.Copies != tc.copies || r.Attempts != tc.copies || r.Error == "" {
			t.Errorf("%s: %+v", tc.verb, r)
		}
	}
}

// Addresses beyond ASCII need a server with SMTPUTF8, unless only the domain is beyond ASCII.
func TestAddressesBeyondASCII(t *testing.T) {
	const hello = "MAIL FROM:<welcome@sender.example> BODY=8BITMIME"
	for _, tc := range []struct {
		email   string
		offered bool
		mail    string // the MAIL command, "" for none
		rcpt    string
	}{
		{"mina@example.org", true, hello, "RCPT TO:<mina@example.org>"},
		{"mina@bücher.example", false, hello, "RCPT TO:<mina@xn--bcher-kva.example>"},
		{"用户@例子.example", true, hello + " SMTPUTF8", "RCPT TO:<用户@xn--fsqu00a.example>"},
		{"müller@example.org", false, "", ""},
		{"mina@localhost", true, "", ""}, // accepted by an older version
	} {
		s := newServer(t, "127.0.0.1:0", nil)
		if tc.offered {
			s.extensions = append(s.extensions, "SMTPUTF8")
		}
		f := open(t, s.addr)
		f.letter("mina", tc.email)
		if err := f.work(); err != nil {
			t.Fatal(err)
		}
		r := f.row()
		mail, rcpt := strings.Join(s.said("MAIL"), ";"), strings.Join(s.said("RCPT"), ";")
		sent := tc.mail != ""
		if mail != tc.mail || rcpt != tc.rcpt || (r.State == "sent") != sent || (r.Error == "") != sent {
			t.Errorf("%s: %q, %q, %+v", tc.email, mail, rcpt, r)
		}
		if strings.Contains(r.Error, "ller") {
			t.Errorf("the address is in %q", r.Error)
		}
	}
}

func TestSenders(t *testing.T) {
	for from, good := range map[string]bool{
		"welcome@example.org": true, "Signup Saga <welcome@example.org>": true, "welcome@localhost": true,
		"Grüße <hallo@bücher.example>": true,
		"not an address":               false, "": false, "welcome": false, "welcome@": false, "@example.org": false,
		"a@b@c.de":             false,
		"welcome@exa mple.org": false, "welcome@-example.org": false, "grüße@example.org": false,
		"a@b.de\r\nBcc: c@d.de": false,
	} {
		if err := mail.CheckSender(from); (err == nil) != good {
			t.Errorf("%q: %v", from, err)
		}
	}
	s := newServer(t, "127.0.0.1:0", nil)
	f := open(t, s.addr)
	f.cfg.From = `"Grüße, Saga" <hallo@bücher.example>`
	f.mailer = f.another()
	f.letter("mina", "mina@example.org")
	if err := f.work(); err != nil || len(s.all()) != 1 {
		t.Fatal(err)
	}
	if got := s.said("MAIL")[0]; got != "MAIL FROM:<hallo@xn--bcher-kva.example> BODY=8BITMIME" {
		t.Error(got)
	}
	want := "From: =?utf-8?b?R3LDvMOfZSwgU2FnYQ==?= <hallo@xn--bcher-kva.example>\r\n"
	if !strings.Contains(s.all()[0], want) {
		t.Errorf("no %q in\n%s", want, s.all()[0])
	}
}
