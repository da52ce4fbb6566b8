package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
)

//go:embed layout.html
var layout embed.FS

// Headers makes browsers run and show only what the same origin serves, keep no copy of the pages, and send no
// referrer to other sites. (With the policy no-referrer, browsers would send forms over plain HTTP with the
// origin "null", which looks like another site's.)
func Headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy",
			"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
				"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// Page is what the layout shows around a template's "main".
type Page struct {
	Title   string // of the browser's tab
	Product string // shown on top; links to Home
	Home    string // path
	Assets  string // path below which [Asset] is served, "/console/assets"
	Nav     []Link // in order
	Events  string // event stream: each event refreshes the page; "" for none
	Every   int    // milliseconds between two refreshes of the page; 0 for never
	Reload  int    // seconds after which a browser without script reloads the page; 0 for never
	Who     string // who is signed in, "" for nobody
	Role    string // of who is signed in
	Leave   string // where a POST signs out
	Data    any    // the template's own
}

// Link is an entry of the navigation.
type Link struct {
	Path, Text string // where it leads, and what it says
	Current    bool   // it is this page
}

// Pages are templates. Safe for concurrent use.
type Pages struct{ byName map[string]*template.Template }

// NewPages parses the files *.html of a folder, each together with the layout and with the files whose names
// begin with an underscore.
func NewPages(from fs.FS, funcs template.FuncMap) (*Pages, error) {
	base, err := template.New("layout").Funcs(template.FuncMap{"asset": func(folder, name string) string {
		return folder + "/" + name + "?v=" + assets[name].Version
	}}).Funcs(funcs).ParseFS(layout, "layout.html")
	if err != nil {
		return nil, fmt.Errorf("layout: %w", err)
	}
	names, err := fs.Glob(from, "*.html")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "_") {
			if base, err = base.ParseFS(from, name); err != nil {
				return nil, fmt.Errorf("page %s: %w", name, err)
			}
		}
	}
	p := &Pages{byName: make(map[string]*template.Template)}
	for _, name := range names {
		if strings.HasPrefix(name, "_") {
			continue
		}
		t, err := base.Clone()
		if err == nil {
			t, err = t.ParseFS(from, name)
		}
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.byName[strings.TrimSuffix(name, ".html")] = t
	}
	return p, nil
}

// Write answers a request with a page, and makes its links relative. If the template fails, it returns an error
// and writes nothing.
func (p *Pages) Write(w http.ResponseWriter, r *http.Request, status int, name string, page Page) error {
	t := p.byName[name]
	if t == nil {
		return fmt.Errorf("there is no page %q", name)
	}
	var text bytes.Buffer
	if err := t.ExecuteTemplate(&text, "layout.html", page); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	body := relative(r, text.String())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // fails only if the client is gone
	return nil
}
