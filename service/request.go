package service

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Bearer returns the token of the Authorization header, or "" without one. One or more spaces separate the
// scheme and the token (RFC 9110, 11.4).
func Bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}

// unreserved matches escapes of characters that mean the same whether they are escaped or not (RFC 3986, 2.3).
var unreserved = regexp.MustCompile(`%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])`)

// normalize decodes needless escapes in the path, which clients and proxies may write: routers compare paths as
// they are written.
func normalize(u *url.URL) {
	if u.RawPath == "" {
		return
	}
	u.RawPath = unreserved.ReplaceAllStringFunc(u.RawPath, func(escape string) string {
		plain, _ := url.PathUnescape(escape) // two hexadecimal digits are always valid
		return plain
	})
	if u.RawPath == (&url.URL{Path: u.Path}).EscapedPath() {
		u.RawPath = ""
	}
}
