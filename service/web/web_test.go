package web_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/signup-saga/signup-saga/service/web"
)

func pages(t *testing.T, files map[string]string) *web.Pages {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	p, err := web.NewPages(fsys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// at returns a request for a page.
func at(path string) *http.Request { return httptest.NewRequest(http.MethodGet, path, http.NoBody) }

// Links work under whatever prefix a proxy serves the listener.
func TestLinksAreRelativeToThePage(t *testing.T) {
	p := pages(t, map[string]string{"one.html": `{{define "main"}}<form action="/f?x=/y"><a href="/">{{.Data}}</a>` +
		`<p data-events="/e"><a href="#main"><a href="?x"><a href="https://other.example/">{{end}}`})
	for path, want := range map[string]string{
		"/": "./", "/a": "./", "/a/": "../", "/a/b": "../", "/a/b/c": "../../", "/a/b%2Fc": "../",
	} {
		w := httptest.NewRecorder()
		if err := p.Write(w, at(path), http.StatusOK, "one", web.Page{Data: `href="/data"`, Home: "/"}); err != nil {
			t.Fatal(err)
		}
		main := `<form action="` + want + `f?x=/y"><a href="` + want + `">href=&#34;/data&#34;</a>` +
			`<p data-events="` + want + `e"><a href="#main"><a href="?x"><a href="https://other.example/">`
		if text := w.Body.String(); !strings.Contains(text, main) || strings.Contains(text, `="/`) {
			t.Errorf("%s: no %s in %s", path, main, text)
		}
		w = httptest.NewRecorder()
		web.Redirect(w, at(path), "/c/d?e=f")
		if to := w.Header().Get("Location"); w.Code != http.StatusSeeOther || to != want+"c/d?e=f" {
			t.Errorf("%s: %d to %s", path, w.Code, to)
		}
	}
}

func TestPagesAreWrittenWholeOrNotAtAll(t *testing.T) {
	p := pages(t, map[string]string{
		"_who.html": `{{define "who"}}<b>{{.}}</b>{{end}}`,
		"one.html":  `{{define "main"}}<h1>{{.Title}}</h1>{{template "who" .Data}}{{end}}`,
		"two.html":  `{{define "main"}}begun {{.Data.Missing}}{{end}}`,
	})
	w := httptest.NewRecorder()
	if err := p.Write(w, at("/x/y"), http.StatusTeapot, "one", web.Page{
		Title: "One", Product: "P", Home: "/x/", Assets: "/x/assets", Data: "<script>", Reload: 3,
	}); err != nil {
		t.Fatal(err)
	}
	text := w.Body.String()
	for _, want := range []string{
		"<title>One · P</title>", "<h1>One</h1><b>&lt;script&gt;</b>", `<a class="product" href="../x/">`,
		`<noscript><meta http-equiv="refresh" content="3">`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if w.Code != http.StatusTeapot || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, name := range []string{"two", "three", "_who"} {
		w := httptest.NewRecorder()
		if err := p.Write(w, at("/x/y"), http.StatusOK, name, web.Page{Data: "x"}); err == nil || w.Body.Len() > 0 {
			t.Errorf("%s: error %v, written %q", name, err, w.Body)
		}
	}
	if _, err := web.NewPages(fstest.MapFS{"bad.html": {Data: []byte("{{")}}, nil); err == nil {
		t.Error("a broken template is taken")
	}
}

func TestAssetsAreKeptInTheVersionThatThePageNames(t *testing.T) {
	w := httptest.NewRecorder()
	p := pages(t, map[string]string{"one.html": `{{define "main"}}{{end}}`})
	if err := p.Write(w, at("/x"), http.StatusOK, "one", web.Page{Assets: "/a/b"}); err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`(?:src|href)="[.](/a/b/[^"]+)"`).FindAllStringSubmatch(w.Body.String(), -1)
	if len(links) != 3 {
		t.Fatalf("links %v", links)
	}
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		web.Asset(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w
	}
	for _, link := range links {
		if w := get(link[1]); w.Code != http.StatusOK || w.Body.Len() == 0 ||
			!strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", link[1], w.Code, w.Header())
		}
		if w := get(link[1] + "0"); w.Code != http.StatusOK || w.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("another version of %s: %d %v", link[1], w.Code, w.Header())
		}
	}
	for _, path := range []string{"/a/b/doc.go", "/a/b/", "/"} {
		if w := get(path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestHeadersLetNothingElseRun(t *testing.T) {
	w := httptest.NewRecorder()
	web.Headers(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	policy := w.Header().Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") ||
		!strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("policy %q", policy)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
		"Cache-Control": "no-store"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestTransportCallsTheHandler(t *testing.T) {
	type key struct{}
	client := &http.Client{Transport: web.Transport{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("X-Value", r.Context().Value(key{}).(string))
			w.WriteHeader(http.StatusTeapot)
			w.WriteHeader(http.StatusOK)
			fmt.Fprint(w, r.Method, " ", r.URL, " ", string(body), " ", r.RemoteAddr, " ", r.Header.Get("Cookie"))
		})}}
	page := httptest.NewRequest(http.MethodGet, "/page", http.NoBody)
	page.RemoteAddr = "192.0.2.7:1234"
	page.Header.Set("Cookie", "session=secret")
	page = page.WithContext(contextWith(page, key{}, "kept"))
	r, err := http.NewRequestWithContext(web.ForClient(page), http.MethodPost, "http://api/v1?x=y",
		strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if want := "POST http://api/v1?x=y body 192.0.2.7:1234 "; err != nil || string(body) != want {
		t.Errorf("%q, want %q; error %v", body, want, err)
	}
	if answer.StatusCode != http.StatusTeapot || answer.Header.Get("X-Value") != "kept" {
		t.Errorf("%d %v", answer.StatusCode, answer.Header)
	}
}

func contextWith(r *http.Request, key, value any) context.Context {
	return context.WithValue(r.Context(), key, value)
}
