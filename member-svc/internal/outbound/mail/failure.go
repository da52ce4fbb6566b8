package mail

import (
	"errors"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/signup-saga/signup-saga/member-svc/internal/email"
)

// stage is the part of a conversation in which something failed.
type stage string

const (
	stageConnect  stage = "connect"
	stageGreeting stage = "greeting"
	stageHello    stage = "EHLO"
	stageTLS      stage = "STARTTLS"
	stageAuth     stage = "AUTH"
	stageMail     stage = "MAIL"
	stageRcpt     stage = "RCPT"
	stageData     stage = "DATA"
	stageEnd      stage = "end of DATA"
)

// hint tells an operator what to do about a server that refuses to talk to us.
func (f *failure) hint() string {
	switch {
	case f.code == codeClosing || f.code == 0 && f.stage == stageHello:
		return ""
	case f.code == codeWantAuth:
		return "; set SMTP_USERNAME and SMTP_PASSWORD, or MAIL_TLS"
	case f.stage == stageConnect:
		return "; check SMTP_ADDR"
	case f.stage == stageHello:
		return "; set MAIL_HELO to a name that the mail server accepts"
	case f.stage == stageTLS:
		return "; check MAIL_TLS and SMTP_CA_FILE"
	case f.code == codeNoMail:
		return "; check SMTP_ADDR"
	case f.ours && f.code >= 500:
		return "; check MAIL_FROM"
	case f.stage == stageAuth:
		return "; check SMTP_USERNAME, SMTP_PASSWORD and MAIL_TLS"
	default:
		return ""
	}
}

// outcome is the consequence of a failure for the mail.
type outcome int

const (
	serverAway     outcome = iota // the server or the network is at fault: the mail was not tried
	putOff                        // the server asks to try the mail later
	refusedForGood                // the server will never accept the mail
	inDoubt                       // the server has the text, and has not said whether it accepts it
)

// failure is a mail server's refusal, or how the conversation broke. It contains no address.
type failure struct {
	stage stage
	code  int    // of the server's answer; 0: no answer
	text  string // one line, with the enhanced code if there was one
	ours  bool   // the command is the same for all mails
}

// Error implements error.
func (f *failure) Error() string {
	said := f.text
	if f.code > 0 {
		said = strconv.Itoa(f.code) + " " + said
	}
	return string(f.stage) + ": " + said + f.hint()
}

// Codes whose meaning differs from their first digit.
const (
	codeClosing  = 421 // RFC 5321, 3.8: the server closes the connection, whatever the command
	codeNoMail   = 521 // RFC 7504: the server accepts no mail at all
	codeWantAuth = 530 // RFC 4954 and 3207: the server requires AUTH or STARTTLS first, from everyone
	codeFull     = 552 // RFC 5321, 4.5.3.1.10: after RCPT it means 452
)

// outcome is the one place that decides what an answer means.
func (f *failure) outcome() outcome {
	definite := f.code >= 400 && f.code <= 599
	switch {
	case f.stage == stageEnd && !definite:
		return inDoubt
	case f.setup() || !definite || slices.Contains([]int{codeClosing, codeNoMail, codeWantAuth}, f.code):
		return serverAway
	case f.stage != stageEnd && slices.Contains([]int{500, 502, 503}, f.code):
		return serverAway // the server does not know the command, or expects another one first, often AUTH
	case f.ours && f.code >= 500:
		return serverAway // the server refuses the sender, and so every mail
	case f.code < 500 || f.code == codeFull && f.stage == stageRcpt:
		return putOff
	default:
		return refusedForGood
	}
}

// ends reports whether the conversation is over.
func (f *failure) ends() bool { return f.outcome() == serverAway || f.outcome() == inDoubt }

// setup reports whether the failure came before the first mail.
func (f *failure) setup() bool {
	switch f.stage {
	case stageMail, stageRcpt, stageData, stageEnd:
		return false
	default:
		return true
	}
}

// setting reports whether the failure will probably last until someone changes a setting.
func (f *failure) setting() bool { return f.code >= 500 || f.stage == stageAuth || f.stage == stageTLS }

// newFailure describes an error. It removes the address to, which servers like to repeat.
func newFailure(at stage, err error, to email.Address) *failure {
	f := &failure{stage: at, text: err.Error()}
	if answer := new(textproto.Error); errors.As(err, &answer) {
		f.code, f.text = answer.Code, answer.Msg
	}
	f.text = withoutAddress(f.text, to)
	return f
}

// taken returns nil if the server has answered with any code 2xx: a client goes by the first digit (RFC 5321,
// 4.3.2). smtp reports codes that it does not expect as errors.
func taken(err error) error {
	if answer := new(textproto.Error); errors.As(err, &answer) && answer.Code/100 == 2 {
		return nil
	}
	return err
}

const maxText = 200 // characters kept of an answer

var anyAddress = regexp.MustCompile(`[^\s<>()\[\]"',;:]+@[^\s<>()"',;]+`)

// withoutAddress returns text in one line, without anything that looks like an address, and without the parts
// of to.
func withoutAddress(text string, to email.Address) string {
	between := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	text = strings.Join(strings.FieldsFunc(text, between), " ")
	text = anyAddress.ReplaceAllString(text, "…")
	for _, part := range []string{to.Domain, to.Unicode(), to.Local} {
		if part != "" {
			word := regexp.MustCompile(`(?i)(^|[^\pL\pN])` + regexp.QuoteMeta(part) + `($|[^\pL\pN])`)
			for range 2 { // twice, because adjacent words share the space between them
				text = word.ReplaceAllString(text, "${1}…${2}")
			}
		}
	}
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	return text
}
