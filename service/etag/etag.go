// Package etag handles ETags and conditional requests (RFC 9110, 8.8.3 and 13).
package etag

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Gzip is the suffix of the ETag of a compressed response, which is another representation.
const Gzip = "-gzip"

// entityTag matches one element of a list of ETags, with the separator that follows it.
var entityTag = regexp.MustCompile(`^[ \t]*((?:W/)?"[!#-~\x80-\xff]*")?[ \t]*(?:,|$)`)

// Condition is a parsed If-Match or If-None-Match header.
type Condition struct {
	Given bool     // the header is present
	Any   bool     // its value is *
	Tags  []string // as sent, with quotes
}

// Read parses all lines of a header. It returns false if the header is present but is not a list of ETags.
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

// NotModified sets the ETag header. If the request names this ETag in If-None-Match, the client already has the
// response: NotModified answers 304 and returns true. Call it for GET and HEAD only.
func NotModified(w http.ResponseWriter, r *http.Request, tag string) bool {
	w.Header().Set("ETag", tag)
	p, ok := Read(r, "If-None-Match")
	if !ok || !p.Given { // without a valid condition the client gets everything
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
