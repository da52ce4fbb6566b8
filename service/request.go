package service

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Bearer returns the token of the header Authorization, "" without one. One space or
// more is between the scheme and the token (RFC 9110, 11.4).
func Bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}

// unreserved are characters that mean the same whether they are escaped or not
// (RFC 3986, 2.3), where they are escaped.
var unreserved = regexp.MustCompile(`%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])`)

// normalize removes escapes from the path that a client or a proxy need not have
// written: routers compare paths as they are written.
func normalize(u *url.URL) {
	if u.RawPath == "" {
		return
	}
	u.RawPath = unreserved.ReplaceAllStringFunc(u.RawPath, func(escape string) string {
		plain, _ := url.PathUnescape(escape) // two hexadecimal digits always are one
		return plain
	})
	if u.RawPath == (&url.URL{Path: u.Path}).EscapedPath() {
		u.RawPath = ""
	}
}
