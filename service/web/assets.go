package web

import (
	"embed"
	"net/http"
	"path"

	"github.com/signup-saga/signup-saga/service/etag"
)

//go:embed style.css live.js challenge.js icon.svg
var files embed.FS

const script = "text/javascript; charset=utf-8"

var types = map[string]string{
	"style.css": "text/css; charset=utf-8", "live.js": script, "challenge.js": script, "icon.svg": "image/svg+xml",
}

// assets are the files of this package, by name.
var assets = func() map[string]*etag.Content {
	all := make(map[string]*etag.Content, len(types))
	for name, kind := range types {
		body, _ := files.ReadFile(name) // embedded
		all[name] = etag.NewContent(body, kind)
	}
	return all
}()

// Asset serves the file of this package that the path ends with, or answers 404. A page names the version that
// it wants in the query, and browsers keep that version for good. During a rollout another replica may serve
// another version; browsers revalidate that one.
func Asset(w http.ResponseWriter, r *http.Request) {
	found, ok := assets[path.Base(r.URL.Path)]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.URL.RawQuery == "v="+found.Version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	found.ServeHTTP(w, r)
}
