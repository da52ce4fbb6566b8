package service

import (
	"net/http"

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
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			compressed.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
