package service

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// entityTag is one element of a list of ETags (RFC 9110, 8.8.3) and what separates it
// from the next one.
var entityTag = regexp.MustCompile(`^[ \t]*((?:W/)?"[!#-~\x80-\xff]*")?[ \t]*(?:,|$)`)

// Precondition is a header If-Match or If-None-Match.
type Precondition struct {
	Given bool     // there is such a header
	Any   bool     // it is *
	Tags  []string // as they are written, quoted
}

// ReadPrecondition reads a header, all lines of it. The error is a [Problem], 400.
func ReadPrecondition(r *http.Request, name string) (Precondition, error) {
	lines := r.Header.Values(name)
	p := Precondition{Given: len(lines) > 0}
	rest := strings.Join(lines, ",")
	if p.Any = strings.Trim(rest, " \t") == "*"; p.Any {
		return p, nil
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
	if p.Given && (rest != "" || len(p.Tags) == 0) {
		detail := name + ` must be * or a list of ETags, as in "1", "2"`
		return p, NewProblem(http.StatusBadRequest, "invalid_precondition", detail)
	}
	return p, nil
}

// NotModified answers 304 and returns true if a GET or HEAD names this ETag in
// If-None-Match: the client has what it would be given. It sets the header ETag.
func NotModified(w http.ResponseWriter, r *http.Request, tag string) bool {
	w.Header().Set("ETag", tag)
	p, err := ReadPrecondition(r, "If-None-Match")
	if err != nil || !p.Given { // who cannot say what they have is given all
		return false
	}
	same := func(t string) bool { return strings.TrimPrefix(t, "W/") == tag }
	if !p.Any && !slices.ContainsFunc(p.Tags, same) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}
