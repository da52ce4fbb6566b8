package etag

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"
)

// Content is a representation that stays as it is: a file, a document. Clients keep it
// and ask whether it is still the same.
type Content struct {
	body        []byte
	contentType string
	Version     string // of the content
}

// NewContent returns the representation of a body.
func NewContent(body []byte, contentType string) *Content {
	sum := sha256.Sum256(body)
	return &Content{body: body, contentType: contentType, Version: hex.EncodeToString(sum[:6])}
}

// ServeHTTP implements http.Handler for GET and HEAD, with conditions and ranges.
func (s *Content) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if h.Get("Cache-Control") == "" || h.Get("Cache-Control") == "no-store" {
		h.Set("Cache-Control", "no-cache")
	}
	if NotModified(w, r, `"`+s.Version+`"`) {
		return
	}
	h.Set("Content-Type", s.contentType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.body))
}
