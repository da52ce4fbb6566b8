package service

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"
)

// Static is a representation that stays as it is: a file, a document. Clients keep it
// and ask whether it is still the same.
type Static struct {
	body        []byte
	contentType string
	Version     string // of the content
}

// NewStatic returns the representation of a body.
func NewStatic(body []byte, contentType string) *Static {
	sum := sha256.Sum256(body)
	return &Static{body: body, contentType: contentType, Version: hex.EncodeToString(sum[:6])}
}

// ServeHTTP implements http.Handler for GET and HEAD, with conditions and ranges.
func (s *Static) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", s.contentType)
	h.Set("ETag", `"`+s.Version+`"`)
	if h.Get("Cache-Control") == "" || h.Get("Cache-Control") == "no-store" {
		h.Set("Cache-Control", "no-cache")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.body))
}
