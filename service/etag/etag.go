// Package etag is about representations that clients have already: ETags, and requests
// that depend on them (RFC 9110, 8.8.3 and 13).
package etag

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Gzip is the suffix of the ETag of what is compressed: another representation.
const Gzip = "-gzip"

// entityTag is one element of a list of ETags and what separates it from the next one.
var entityTag = regexp.MustCompile(`^[ \t]*((?:W/)?"[!#-~\x80-\xff]*")?[ \t]*(?:,|$)`)

// Condition is a header If-Match or If-None-Match.
type Condition struct {
	Given bool     // there is such a header
	Any   bool     // it is *
	Tags  []string // as they are written, quoted
}

// Read reads a header, all lines of it. It returns false if that is no list of ETags.
func Read(r *http.Request, name string) (Condition, bool) {
	lines := r.Header.Values(name)
	p := Condition{Given: len(lines) > 0}
	rest := strings.Join(lines, ",")
	if p.Any = strings.Trim(rest, " \t") == "*"; p.Any {
		return p, true
	}
	for rest != "" {
		found := entityTag.FindStringSubmatch(rest)
		if found == nil {
			break
		}
		if rest = rest[len(found[0]):]; found[1] != "" {
			p.Tags = append(p.Tags, found[1])
		}
	}
	return p, !p.Given || rest == "" && len(p.Tags) > 0
}

// NotModified answers 304 and returns true if a GET or HEAD names this ETag in
// If-None-Match: the client has what it would be given. It sets the header ETag.
func NotModified(w http.ResponseWriter, r *http.Request, tag string) bool {
	w.Header().Set("ETag", tag)
	p, ok := Read(r, "If-None-Match")
	if !ok || !p.Given { // who cannot say what they have is given all
		return false
	}
	same := func(t string) bool {
		return strings.Replace(strings.TrimPrefix(t, "W/"), Gzip+`"`, `"`, 1) == tag
	}
	if !p.Any && !slices.ContainsFunc(p.Tags, same) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}
