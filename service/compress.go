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

// Compress sends what GET and HEAD answer with as gzip to those who accept it. Use it
// for lists, pages and documents. Do not use it where an answer holds a secret together
// with text that somebody else chose, for its size would tell of the secret (BREACH):
// answers to POST are never compressed. Nor use it for streams of events, and for single
// records, whose ETags are for If-Match.
func Compress(next http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(
		gzhttp.MinSize(minCompressed), gzhttp.SuffixETag(etag.Gzip), gzhttp.EnableZstd(false),
		gzhttp.ContentTypes([]string{"text/html", "text/css", "text/javascript", "image/svg+xml", "application/json"}),
	)
	if err != nil { // an option is wrong, which every test would see
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
		if r.Method == http.MethodHead { // answered as GET is; net/http leaves the body out
			r.Method = http.MethodGet
			r.Header.Del("Range")
		}
		compressed.ServeHTTP(w, r)
	})
}

// weight is how much a coding is preferred in Accept-Encoding: 0 to 1 (RFC 9110, 12.4.2); 0 if it is not named.
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
