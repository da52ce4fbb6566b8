package service

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzhttp"

	"github.com/signup-saga/signup-saga/service/etag"
)

// minCompressed is the smallest body in bytes that is worth compressing.
const minCompressed = 1 << 10

// Compress compresses responses to GET and HEAD with gzip for clients that accept it. Use it for lists, pages
// and documents. Do not use it where a response combines a secret with text that somebody else chose: the
// compressed size would leak the secret (BREACH). For this reason, responses to POST are never compressed. Do
// not use it for event streams, nor for single records, whose ETags are used in If-Match.
func Compress(next http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(
		gzhttp.MinSize(minCompressed), gzhttp.SuffixETag(etag.Gzip), gzhttp.EnableZstd(false),
		gzhttp.ContentTypes([]string{"text/html", "text/css", "text/javascript", "image/svg+xml", "application/json"}),
	)
	if err != nil { // an option is invalid; every test would notice
		return next
	}
	compressed := wrap(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		r = r.Clone(r.Context())
		accepted := strings.Join(r.Header["Accept-Encoding"], ",")
		if weight(accepted, "gzip") < weight(accepted, "identity") {
			accepted = ""
		}
		r.Header.Set("Accept-Encoding", accepted)
		if r.Method == http.MethodHead { // answered like GET; net/http omits the body
			r.Method = http.MethodGet
			r.Header.Del("Range")
		}
		compressed.ServeHTTP(w, r)
	})
}

// weight returns the quality value of a coding in Accept-Encoding, from 0 to 1 (RFC 9110, 12.4.2), or 0 if it
// is not listed.
func weight(accepted, coding string) float64 {
	for element := range strings.SplitSeq(accepted, ",") {
		name, parameter, weighted := strings.Cut(element, ";")
		if !strings.EqualFold(strings.TrimSpace(name), coding) {
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		q, err := strconv.ParseFloat(value, 64)
		if !weighted || !strings.EqualFold(key, "q") || err != nil {
			return 1
		}
		return q
	}
	return 0
}
