package web

import (
	"net/http"
	"strings"
)

// root returns the relative path from a page to the root of its listener. Links that begin with it work under
// whatever prefix a reverse proxy serves the listener, for example "/signup-saga/".
func root(r *http.Request) string {
	if depth := strings.Count(r.URL.EscapedPath(), "/") - 1; depth > 0 {
		return strings.Repeat("../", depth)
	}
	return "./"
}

// relative makes the listener's own links, as templates write them, relative to the page. Text from users
// cannot look like such a link: html/template escapes its quotes.
func relative(r *http.Request, page string) string {
	var pairs []string
	for _, attribute := range []string{"href", "src", "action", "data-events"} {
		pairs = append(pairs, attribute+`="/`, attribute+`="`+root(r))
	}
	return strings.NewReplacer(pairs...).Replace(page)
}

// Redirect answers a form, or a request for a page that is elsewhere, with 303: the browser continues with a
// GET of path, which begins with a slash.
func Redirect(w http.ResponseWriter, r *http.Request, path string) {
	w.Header().Set("Location", root(r)+strings.TrimLeft(path, "/"))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusSeeOther)
}
