package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
)

//go:embed style.css live.js icon.svg
var files embed.FS

var types = map[string]string{"style.css": "text/css; charset=utf-8", "live.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}

// asset is a file that pages refer to.
type asset struct {
	body          []byte
	kind, version string
}

// assets are the files of this package, by name.
var assets = func() map[string]asset {
	all := make(map[string]asset, len(types))
	for name, kind := range types {
		body, _ := files.ReadFile(name) // embedded
		sum := sha256.Sum256(body)
		all[name] = asset{body, kind, hex.EncodeToString(sum[:6])}
	}
	return all
}()

// Asset serves the file of this package that the path ends with, or answers 404. A
// page names the version that it wants, which browsers then keep. While a new version
// is rolled out they may be given another one by another replica, and do not keep that.
func Asset(w http.ResponseWriter, r *http.Request) {
	found, ok := assets[path.Base(r.URL.Path)]
	if !ok {
		http.NotFound(w, r)
		return
	}
	cache := "no-cache"
	if r.URL.RawQuery == "v="+found.version {
		cache = "public, max-age=31536000, immutable"
	}
	w.Header().Set("Cache-Control", cache)
	w.Header().Set("Content-Type", found.kind)
	_, _ = w.Write(found.body) // whoever asked has gone
}
