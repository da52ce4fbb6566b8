// Package email decides which email addresses this service accepts, and how it writes them. docs/mail.md lists
// the rules.
package email

import (
	"errors"
	"net"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Limits of RFC 5321, in octets.
const (
	maxLocal   = 64
	maxAddress = 254
)

// ErrInvalid is the only error for an invalid address: a reason would repeat a part of the address.
var ErrInvalid = errors.New("not an e-mail address")

// Address is an address that [Parse] has accepted.
type Address struct {
	Local  string // before the @, as it was typed
	Domain string // in A-labels and lower case
}

// Parse accepts local@domain as in RFC 5321 and RFC 6531, but no quoted local parts, comments or address
// literals: hardly anyone has such an address, and much software misreads them. Converted to A-labels, the
// domain must have at least two labels of letters, digits and hyphens. Beyond ASCII, only letters, digits and
// their marks are accepted.
func Parse(address string) (Address, error) {
	at := strings.LastIndexByte(address, '@')
	if at < 1 || !utf8.ValidString(address) || strings.ContainsFunc(address, unusable) {
		return Address{}, ErrInvalid
	}
	a := Address{Local: address[:at]}
	for atom := range strings.SplitSeq(a.Local, ".") {
		if atom == "" || strings.ContainsFunc(atom, notAtext) {
			return Address{}, ErrInvalid
		}
	}
	domain, err := Domain(address[at+1:])
	if err != nil || !strings.Contains(domain, ".") || net.ParseIP(domain) != nil {
		return Address{}, ErrInvalid
	}
	a.Domain = domain
	if top := domain[strings.LastIndexByte(domain, '.')+1:]; len(top) < 2 || strings.Trim(top, "0123456789") == "" {
		return Address{}, ErrInvalid
	}
	if len(a.Local) > maxLocal || len(address) > maxAddress || len(a.String()) > maxAddress {
		return Address{}, ErrInvalid
	}
	return a, nil
}

// names checks and converts domains as a client does before a DNS lookup (UTS 46): letters, digits and hyphens,
// labels of 1 to 63 octets, no trailing dot, no mixed directions.
var names = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.VerifyDNSLength(true), idna.StrictDomainName(true))

// Domain returns a host name in A-labels and lower case. It accepts a single label, as in localhost.
func Domain(name string) (string, error) {
	ascii, err := names.ToASCII(name)
	if err != nil || strings.ContainsFunc(name, unusable) {
		return "", ErrInvalid
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if label == "" || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return "", ErrInvalid
		}
	}
	return ascii, nil
}

// unusable reports whether r is a control character, a space, a separator, a direction mark, of zero width, or
// otherwise not something that people can see or type.
func unusable(r rune) bool {
	if r < utf8.RuneSelf {
		return r <= ' ' || r == 0x7f
	}
	return !unicode.In(r, unicode.L, unicode.M, unicode.Nd) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// notAtext reports whether r is an ASCII character that an unquoted local part may not contain.
func notAtext(r rune) bool { return strings.ContainsRune(`"(),:;<>@[\]`, r) }

// String returns the address in the form that mail servers expect.
func (a Address) String() string { return a.Local + "@" + a.Domain }

// Unicode returns the domain as people read it.
func (a Address) Unicode() string {
	domain, _ := idna.Punycode.ToUnicode(a.Domain) // a label that cannot be converted stays
	return domain
}

// ASCII reports whether every mail server accepts the address; other addresses need SMTPUTF8.
func (a Address) ASCII() bool {
	return !strings.ContainsFunc(a.Local, func(r rune) bool { return r >= utf8.RuneSelf })
}

// Mailbox returns the same text for addresses that very probably reach the same person: without case, and
// without the part after a plus sign. Use it for limits, never for sending.
func (a Address) Mailbox() string {
	local, tag, tagged := strings.Cut(a.Local, "+")
	if local == "" && tagged {
		local = tag
	}
	return norm.NFKC.String(cases.Fold().String(local)) + "@" + a.Domain
}
