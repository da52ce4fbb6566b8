package web

import (
	"net/http"
	"strings"
)

// root is the way from a page up to the root of its listener. Links that begin with it
// hold wherever a reverse proxy puts the listener's paths, "/signup-saga/" perhaps.
func root(r *http.Request) string {
	if depth := strings.Count(r.URL.EscapedPath(), "/") - 1; depth > 0 {
		return strings.Repeat("../", depth)
	}
	return "./"
}

// relative makes links of the listener's own, as templates write them, relative to the
// page. Text of others cannot look like one: html/template escapes its quotes.
func relative(r *http.Request, page string) string {
	var pairs []string
	for _, attribute := range []string{"href", "src", "action", "data-events"} {
		pairs = append(pairs, attribute+`="/`, attribute+`="`+root(r))
	}
	return strings.NewReplacer(pairs...).Replace(page)
}

// Redirect answers a form, or a request for a page that is elsewhere: the browser goes
// on with a GET of the path, which begins with a slash.
func Redirect(w http.ResponseWriter, r *http.Request, path string) {
	w.Header().Set("Location", root(r)+strings.TrimLeft(path, "/"))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusSeeOther)
}
