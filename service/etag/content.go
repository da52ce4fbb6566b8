package etag

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Content is an immutable representation: a file or a document. Clients keep it and revalidate it by its ETag.
type Content struct {
	body        []byte
	contentType string
	Version     string // hash of the content, shortened
}

// NewContent returns the representation of a body.
func NewContent(body []byte, contentType string) *Content {
	sum := sha256.Sum256(body)
	return &Content{body: body, contentType: contentType, Version: hex.EncodeToString(sum[:6])}
}

// oneRange matches the only kind of Range that is served. All others are ignored, as RFC 9110, 14.2 allows:
// methods other than GET, other units, and sets of ranges, whose response could be many times as long as the
// content.
var oneRange = regexp.MustCompile(`^(?i:bytes)=[ \t]*([0-9]+-[0-9]*|-[0-9]+)[ \t]*$`)

// ServeHTTP implements http.Handler for GET and HEAD, with conditions and ranges.
func (s *Content) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if h.Get("Cache-Control") == "" || h.Get("Cache-Control") == "no-store" {
		h.Set("Cache-Control", "no-cache")
	}
	if NotModified(w, r, `"`+s.Version+`"`) {
		return
	}
	r = r.Clone(r.Context())
	one := oneRange.FindStringSubmatch(strings.Join(r.Header["Range"], ","))
	if r.Header.Del("Range"); r.Method == http.MethodGet && one != nil {
		r.Header.Set("Range", "bytes="+one[1])
	}
	h.Set("Content-Type", s.contentType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.body))
}
