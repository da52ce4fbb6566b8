// Package webtest reads pages as browsers do.
package webtest

import (
	"net/http"
	"net/url"
	"regexp"
)

var link = regexp.MustCompile(`((?:href|src|action|data-events)=")(\.{1,2}/[^"]*)`)

// Resolve returns a page with its relative links turned into paths. It rewrites the Location header of answer
// likewise.
func Resolve(answer *http.Response, page string) string {
	absolute := func(reference string) string {
		found, err := answer.Request.URL.Parse(reference)
		if err != nil {
			return "invalid: " + reference
		}
		path := url.URL{Path: found.Path, RawPath: found.RawPath, RawQuery: found.RawQuery, Fragment: found.Fragment}
		return path.String()
	}
	if to := answer.Header.Get("Location"); to != "" {
		answer.Header.Set("Location", absolute(to))
	}
	return link.ReplaceAllStringFunc(page, func(found string) string {
		parts := link.FindStringSubmatch(found)
		return parts[1] + absolute(parts[2])
	})
}
