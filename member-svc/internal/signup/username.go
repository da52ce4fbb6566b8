package signup

import (
	"maps"
	"strings"
	"unicode"

	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"
)

// UsernameKey returns the unique form of a username: the PRECIS profile UsernameCaseMapped (RFC 8265), which
// maps case and width and normalises. The key of a key is itself. Names that merely look alike have different
// keys.
func UsernameKey(username string) (string, error) {
	return precis.UsernameCaseMapped.String(username)
}

// Reserved is a set of usernames that nobody may take, because people would believe that they speak for the
// service. Names that look alike count as equal, see fold.
type Reserved map[string]bool

// standard lists the mailboxes of RFC 2142 and other names of people who run a service.
const standard = "abuse admin administrator ftp help hostmaster info mailer-daemon marketing moderator news no-reply " +
	"noc operator postmaster root sales security staff support sysadmin system usenet uucp webmaster www"

// ParseReserved reads names separated by commas or white space. "standard" stands for the list of roles above,
// and "none" for no name.
func ParseReserved(list string) Reserved {
	reserved := Reserved{}
	for _, name := range strings.Fields(strings.ReplaceAll(list, ",", " ")) {
		key, err := UsernameKey(name)
		switch {
		case err != nil || name == "none":
		case name == "standard":
			maps.Copy(reserved, ParseReserved(standard))
		default:
			reserved[fold(key)] = true
		}
	}
	return reserved
}

// Has reports whether the username with this key, see [UsernameKey], is reserved.
func (r Reserved) Has(usernameKey string) bool { return r[fold(usernameKey)] }

// lookalikes maps small letters of the Cyrillic, Greek and Armenian scripts, and digits and symbols, to the Latin
// letters that they look like.
var lookalikes = strings.NewReplacer(
	"а", "a", "α", "a", "в", "b", "с", "c", "ϲ", "c", "ԁ", "d", "е", "e", "ε", "e", "һ", "h", "н", "h",
	"і", "i", "ι", "i", "ı", "i", "ј", "j", "к", "k", "κ", "k", "ӏ", "i", "м", "m", "п", "n", "ո", "n", "η",
	"n",
	"о", "o", "ο", "o", "σ", "o", "օ", "o", "р", "p", "ρ", "p", "ԛ", "q", "г", "r", "ѕ", "s", "т", "t", "τ",
	"t",
	"υ", "u", "ս", "u", "ν", "v", "ѵ", "v", "ԝ", "w", "ω", "w", "х", "x", "χ", "x", "у", "y", "γ", "y",
	"0", "o", "1", "i", "l", "i", "|", "i", "3", "e", "4", "a", "@", "a", "5", "s", "$", "s", "7", "t",
)

// fold returns the same text for names that look alike: without symbols and accents, with lookalikes as Latin
// letters. Most readers take a small l for an i.
func fold(usernameKey string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, lookalikes.Replace(norm.NFKD.String(usernameKey)))
}
