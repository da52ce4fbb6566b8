package mail_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/mail"
)

// secured returns a mail server with a certificate of a private authority for 127.0.0.1.
func secured(t *testing.T, addr string, change func(*server)) (*server, *testenv.Authority) {
	t.Helper()
	ca := testenv.NewAuthority(t)
	pair, err := tls.LoadX509KeyPair(ca.Issue(t.TempDir(), "mail"))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, tls: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}
	change(s)
	return s.listen(addr), ca
}

func TestTLS(t *testing.T) {
	none := testenv.NewAuthority(t).File
	broken := t.TempDir() + "/broken.pem"
	if err := os.WriteFile(broken, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		policy   string
		addr     string
		ca       string // "": the server's; "-": none
		change   func(*server)
		starttls int
		reason   string // why the server cannot be used; "" if it can
	}{
		"offered":          {policy: mail.TLSOpportunistic, starttls: 1},
		"not offered":      {policy: mail.TLSOpportunistic, change: func(s *server) { s.tls = nil }},
		"offered, but off": {policy: mail.TLSOff},
		"required":         {policy: mail.TLSRequired, starttls: 1},
		"required and not offered": {policy: mail.TLSRequired, change: func(s *server) { s.tls = nil },
			reason: "does not offer it"},
		"implicit": {policy: mail.TLSImplicit, change: func(s *server) { s.implicit = true }},
		"implicit with a stranger": {policy: mail.TLSImplicit, change: func(s *server) { s.implicit = true },
			ca: none, reason: "unknown authority"},
		"unknown authority": {policy: mail.TLSOpportunistic, ca: "-", starttls: 1, reason: "unknown authority"},
		"another authority": {policy: mail.TLSRequired, ca: none, starttls: 1, reason: "unknown authority"},
		"another name":      {policy: mail.TLSRequired, addr: "127.0.0.2:0", starttls: 1, reason: "not 127.0.0.2"},
		"no such file":      {policy: mail.TLSRequired, ca: "/nowhere", reason: "SMTP_CA_FILE"},
		"no certificate":    {policy: mail.TLSRequired, ca: broken, reason: "SMTP_CA_FILE holds no certificate"},
		"refused for now": {policy: mail.TLSOpportunistic, starttls: 1, reason: "454 4.7.0 not now",
			change: func(s *server) { s.script = to("STARTTLS", "454 4.7.0 not now") }},
		"client unknown": {policy: mail.TLSRequired, starttls: 1, reason: "certificate required",
			change: func(s *server) { s.tls.ClientAuth = tls.RequireAnyClientCert }},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.addr == "" {
				tc.addr = "127.0.0.1:0"
			}
			s, ca := secured(t, tc.addr, func(s *server) {
				if tc.change != nil {
					tc.change(s)
				}
			})
			file := map[string]string{"": ca.File, "-": ""}[tc.ca]
			if len(tc.ca) > 1 {
				file = tc.ca
			}
			f := configured(t, mail.Server{Addr: s.addr, TLS: tc.policy, CAFile: file})
			f.letter("mina", "mina@example.org")
			f.sends(tc.reason)
			if n := len(s.said("STARTTLS")); n != tc.starttls || tc.reason != "" && len(s.copies()) > 0 {
				t.Errorf("STARTTLS was said %d times", n)
			}
		})
	}
}

func TestClientCertificate(t *testing.T) {
	s, ca := secured(t, "127.0.0.1:0", func(s *server) { s.tls.ClientAuth = tls.RequireAnyClientCert })
	certFile, keyFile := ca.Issue(t.TempDir(), "member-svc")
	f := configured(t, mail.Server{
		Addr: s.addr, TLS: mail.TLSRequired, CAFile: ca.File, CertFile: certFile, KeyFile: keyFile,
	})
	f.letter("mina", "mina@example.org")
	if err := f.work(); err != nil || f.row().State != "sent" {
		t.Errorf("%v, %+v", err, f.row())
	}
}

const user, secret = "saga", "the right one"

func password() string { return secret }

func TestAuthentication(t *testing.T) {
	for name, tc := range map[string]struct {
		offered string
		script  func(string) string
		said    string
		reason  string
	}{
		"PLAIN": {offered: "AUTH LOGIN PLAIN",
			script: to("AUTH PLAIN "+encoded("\x00"+user+"\x00"+secret), "235 2.7.0 welcome"), said: "AUTH PLAIN"},
		"LOGIN": {offered: "AUTH LOGIN XOAUTH2", script: login, said: "AUTH LOGIN"},
		"SCRAM": {offered: "AUTH PLAIN SCRAM-SHA-256", script: new(scram).answer, said: "AUTH SCRAM-SHA-256"},
		"wrong": {offered: "AUTH PLAIN", said: "AUTH PLAIN",
			script: to("AUTH PLAIN", "535 5.7.8 saga@example.org is not welcome"),
			reason: "AUTH: 535 5.7.8 … is not welcome; check SMTP_USERNAME, SMTP_PASSWORD and MAIL_TLS"},
		"for now": {offered: "AUTH PLAIN", script: to("AUTH PLAIN", "454 4.7.0 not now"), said: "AUTH PLAIN",
			reason: "AUTH: 454 4.7.0 not now"},
		"none we speak": {offered: "AUTH GSSAPI", reason: `the server offers "GSSAPI"`},
		"not offered":   {offered: "SIZE 1000", reason: `the server offers ""`},
	} {
		t.Run(name, func(t *testing.T) {
			s, ca := secured(t, "127.0.0.1:0", func(s *server) {
				s.extensions, s.script = []string{tc.offered}, tc.script
			})
			f := configured(t, mail.Server{
				Addr: s.addr, TLS: mail.TLSRequired, CAFile: ca.File, Username: user, Password: password,
			})
			f.letter("mina", "mina@example.org")
			f.sends(tc.reason)
			if got := strings.Join(s.said("AUTH"), ";"); !strings.HasPrefix(got, tc.said) || tc.said == "" &&
				got != "" {
				t.Errorf("said %q", got)
			}
			if strings.Contains(f.log.String()+f.row().Error, secret) {
				t.Error("the password was sent")
			}
		})
	}
}

// The password is sent over TLS or to this machine only, even if an attacker in between hides STARTTLS.
func TestPasswordIsNotSentInTheClear(t *testing.T) {
	s := newServer(t, "127.0.0.1:0", to("AUTH", "235 welcome"))
	s.extensions = []string{"AUTH PLAIN"}
	f := configured(t, mail.Server{Addr: s.addr, TLS: mail.TLSOpportunistic, Username: user, Password: password})
	f.letter("mina", "mina@example.org")
	f.mailer.Pretend("192.0.2.1")
	err := f.work()
	if err == nil || !strings.Contains(err.Error(), "the server offers no TLS") || len(s.said("AUTH")) != 0 {
		t.Errorf("%v, said %q", err, s.said("AUTH"))
	}
	f.mailer.Quiet()
	f.mailer.Pretend("127.0.0.1")
	if err := f.work(); err != nil || f.row().State != "sent" {
		t.Errorf("on this machine: %v, %+v", err, f.row())
	}
}

// Servers that require a full name for EHLO get one, or our address.
func TestHello(t *testing.T) {
	strict := func(command string) string {
		name, hello := strings.CutPrefix(command, "EHLO ")
		if hello && !strings.HasPrefix(name, "[") && (!strings.Contains(name, ".") || name == "localhost.localdomain") {
			return "504 5.5.2 <" + name + ">: Helo command rejected: need fully-qualified hostname"
		}
		if strings.HasPrefix(command, "HELO") {
			return "504 5.5.2 no"
		}
		return ""
	}
	for name, want := range map[string]string{
		"": "", "saga.example.org": "EHLO saga.example.org", "[192.0.2.1]": "EHLO [192.0.2.1]",
		"localhost": "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname; " +
			"set MAIL_HELO to a name that the mail server accepts",
	} {
		s := newServer(t, "127.0.0.1:0", strict)
		f := configured(t, mail.Server{Addr: s.addr, TLS: mail.TLSOpportunistic, Hello: name})
		f.letter("mina", "mina@example.org")
		err := f.work()
		r, said := f.row(), strings.Join(s.said("EHLO"), ";")
		refused := strings.HasPrefix(want, "504")
		switch {
		case refused && (err == nil || r.State != "queued" || r.Attempts != 0 || r.Error != "EHLO: "+want):
			t.Errorf("%q: %v, %+v", name, err, r)
		case !refused && (err != nil || r.State != "sent" || !strings.Contains(said, want)):
			t.Errorf("%q: %v, %+v, said %q", name, err, r, said)
		}
	}
	for name, good := range map[string]bool{
		"mail.example.org": true, "localhost": true, "[192.0.2.1]": true, "[IPv6:2001:db8::1]": true, "a": true,
		"[2001:db8::1]": false, "[IPv6:192.0.2.1]": false, "[192.0.2.1": false, "192.0.2.1 x": false, "a b": false,
		"a_b.example": false,
		"-a.example":  false, "a..b": false, "a.example.": false, "[]": false, "a\r\nMAIL": false, "": false,
	} {
		if err := mail.CheckHello(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// login plays a server of AUTH LOGIN.
func login(command string) string {
	switch command {
	case "AUTH LOGIN":
		return "334 " + encoded("Username:")
	case encoded(user):
		return "334 " + encoded("Password:")
	case encoded(secret):
		return "235 2.7.0 welcome"
	}
	return ""
}

// scram plays a server of SCRAM-SHA-256 (RFC 7677), which never sees the password.
type scram struct{ bare, first string }

func (s *scram) answer(command string) string {
	const salt, rounds = "a salt of the server", 4096
	if _, initial, ok := strings.Cut(command, "AUTH SCRAM-SHA-256"); ok {
		if initial == "" {
			return "334 "
		}
		return s.challenge(strings.TrimSpace(initial), salt)
	}
	raw, err := base64.StdEncoding.DecodeString(command)
	text := string(raw)
	switch {
	case command == "":
		return "235 2.7.0 welcome"
	case err != nil:
		return ""
	case strings.HasPrefix(text, "n,,"):
		return s.challenge(command, salt)
	case strings.HasPrefix(text, "c="):
		without, proof, _ := strings.Cut(text, ",p=")
		salted, _ := pbkdf2.Key(sha256.New, secret, []byte(salt), rounds, sha256.Size)
		client := sum(salted, "Client Key")
		stored := sha256.Sum256(client)
		message := s.bare + "," + s.first + "," + without
		signature := sum(stored[:], message)
		for i := range client {
			client[i] ^= signature[i]
		}
		if got, _ := base64.StdEncoding.DecodeString(proof); !bytes.Equal(got, client) {
			return "535 5.7.8 wrong"
		}
		return "334 " + encoded("v="+base64.StdEncoding.EncodeToString(sum(sum(salted, "Server Key"), message)))
	}
	return ""
}

func (s *scram) challenge(initial, salt string) string {
	raw, _ := base64.StdEncoding.DecodeString(initial)
	s.bare = strings.TrimPrefix(string(raw), "n,,")
	_, nonce, _ := strings.Cut(s.bare, ",r=")
	s.first = "r=" + nonce + "server,s=" + encoded(salt) + ",i=4096"
	return "334 " + encoded(s.first)
}

func sum(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// A server may take up to ten minutes to answer the text: the other timeouts do not apply to it.
func TestSlowEndIsWaitedFor(t *testing.T) {
	release := make(chan struct{})
	s := newServer(t, "127.0.0.1:0", func(command string) string {
		if command == "." {
			<-release
		}
		return ""
	})
	f := open(t, s.addr)
	f.mailer.HurryUp(200*time.Millisecond, 20*time.Second)
	f.letter("mina", "mina@example.org")
	time.AfterFunc(500*time.Millisecond, func() { close(release) })
	if err := f.work(); err != nil || f.row().State != "sent" || len(s.copies()) != 1 {
		t.Errorf("%v, %+v", err, f.row())
	}
}

// sends lets the mailer work, and checks that the mail is sent or, if a reason is given, waits for that reason
// without an attempt.
func (f *fixture) sends(reason string) {
	f.t.Helper()
	err := f.work()
	r := f.row()
	if reason == "" && (err != nil || r.State != "sent") {
		f.t.Errorf("%v, %+v", err, r)
	}
	waits := r.State == "queued" && r.Attempts == 0
	if reason != "" && (err == nil || !strings.Contains(r.Error, reason) || !waits) {
		f.t.Errorf("%v, %+v; want %q", err, r, reason)
	}
}
