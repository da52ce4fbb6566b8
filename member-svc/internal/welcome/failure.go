package welcome

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

// stage is where in a conversation something failed.
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

// hint says what an operator can do about a server that refuses to talk to us.
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

// outcome is what a failure means for the letter.
type outcome int

const (
	serverAway     outcome = iota // the server, or the way to it, is at fault: the letter has not been tried
	putOff                        // the server wants to see the letter later
	refusedForGood                // the server will never take the letter
	inDoubt                       // the server has the text, and has not said whether it takes it
)

// failure is what a mail server said, or how the conversation broke. It holds no address.
type failure struct {
	stage stage
	code  int    // of the server's answer; 0: there was none
	text  string // one line, with the enhanced code if there was one
	ours  bool   // the command was one that all letters begin with
}

// Error implements error.
func (f *failure) Error() string {
	said := f.text
	if f.code > 0 {
		said = strconv.Itoa(f.code) + " " + said
	}
	return string(f.stage) + ": " + said + f.hint()
}

// Codes that mean something else than their first digit says.
const (
	codeClosing  = 421 // RFC 5321, 3.8: the server goes away, whatever was asked
	codeNoMail   = 521 // RFC 7504: the server takes no mail at all
	codeWantAuth = 530 // RFC 4954 and 3207: the server wants AUTH or STARTTLS first, from everybody
	codeFull     = 552 // RFC 5321, 4.5.3.1.10: after RCPT to be taken as 452
)

// outcome is the one place that says what an answer means.
func (f *failure) outcome() outcome {
	definite := f.code >= 400 && f.code <= 599
	switch {
	case f.stage == stageEnd && !definite:
		return inDoubt
	case f.setup() || !definite || slices.Contains([]int{codeClosing, codeNoMail, codeWantAuth}, f.code):
		return serverAway
	case f.stage != stageEnd && slices.Contains([]int{500, 502, 503}, f.code):
		return serverAway // it does not know the command, or wants another one first, often AUTH
	case f.ours && f.code >= 500:
		return serverAway // it refuses the sender, and so every letter
	case f.code < 500 || f.code == codeFull && f.stage == stageRcpt:
		return putOff
	default:
		return refusedForGood
	}
}

// ends reports whether the conversation is over.
func (f *failure) ends() bool { return f.outcome() == serverAway || f.outcome() == inDoubt }

// setup reports whether the conversation has not come to a letter yet.
func (f *failure) setup() bool {
	switch f.stage {
	case stageMail, stageRcpt, stageData, stageEnd:
		return false
	default:
		return true
	}
}

// setting reports whether the failure will very likely last until somebody changes a setting.
func (f *failure) setting() bool { return f.code >= 500 || f.stage == stageAuth || f.stage == stageTLS }

// newFailure describes an error without the address to, which servers like to repeat.
func newFailure(at stage, err error, to email.Address) *failure {
	f := &failure{stage: at, text: err.Error()}
	if answer := new(textproto.Error); errors.As(err, &answer) {
		f.code, f.text = answer.Code, answer.Msg
	}
	f.text = withoutAddress(f.text, to)
	return f
}

// taken returns nil if the server has answered yes, by whatever code: a client goes by the first digit (RFC 5321,
// 4.3.2).
func taken(err error) error {
	if answer := new(textproto.Error); errors.As(err, &answer) && answer.Code/100 == 2 {
		return nil
	}
	return err
}

const maxText = 200 // characters of an answer that are kept

var anyAddress = regexp.MustCompile(`[^\s<>()\[\]"',;:]+@[^\s<>()"',;]+`)

// withoutAddress returns a text in one line, without anything that looks like an address, and without either part of
// this one.
func withoutAddress(text string, to email.Address) string {
	between := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	text = strings.Join(strings.FieldsFunc(text, between), " ")
	text = anyAddress.ReplaceAllString(text, "…")
	for _, part := range []string{to.Domain, to.Unicode(), to.Local} {
		if part != "" {
			word := regexp.MustCompile(`(?i)(^|[^\pL\pN])` + regexp.QuoteMeta(part) + `($|[^\pL\pN])`)
			for range 2 { // two words side by side share the space between them
				text = word.ReplaceAllString(text, "${1}…${2}")
			}
		}
	}
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	return text
}
