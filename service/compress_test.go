package service_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/etag"
)

func TestWhatIsCompressed(t *testing.T) {
	long, short := strings.Repeat("signup ", 500), strings.Repeat("x", 1000)
	for _, c := range []struct {
		name, method, accept, contentType, body string
		compressed                              bool
	}{
		{"a list", "GET", "gzip", "application/json", long, true},
		{"a page", "GET", "br;q=1, gzip;q=0.5", "text/html; charset=utf-8", long, true},
		{"a short page", "GET", "gzip", "text/html; charset=utf-8", short, false},
		{"the answer to a form", "POST", "gzip", "text/html; charset=utf-8", long, false},
		{"nobody asked", "GET", "", "application/json", long, false},
		{"it is refused", "GET", "gzip;q=0", "application/json", long, false},
		{"rather as it is", "GET", "gzip;q=0.5, identity", "application/json", long, false},
		{"rather as it is, by weight", "GET", "identity;q=0.9, gzip;q=0.1", "application/json", long, false},
		{"rather compressed", "GET", "identity;q=0.5,GZIP;Q=0.8", "application/json", long, true},
		{"only zstd", "GET", "zstd", "application/json", long, false},
		{"an image", "GET", "gzip", "image/png", long, false},
		{"events", "GET", "gzip", "text/event-stream", long, false},
	} {
		handler := service.Compress(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", c.contentType)
			_, _ = io.WriteString(w, c.body)
		}))
		w, r := httptest.NewRecorder(), httptest.NewRequest(c.method, "/", http.NoBody)
		r.Header.Set("Accept-Encoding", c.accept)
		handler.ServeHTTP(w, r)
		if coding := w.Header().Get("Content-Encoding"); coding == "gzip" != c.compressed {
			t.Errorf("%s: Content-Encoding %q", c.name, coding)
		}
		if vary := w.Header().Get("Vary"); c.method == "GET" && vary != "Accept-Encoding" {
			t.Errorf("%s: Vary %q", c.name, vary)
		}
		text := w.Body.String()
		if c.compressed {
			reader, err := gzip.NewReader(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(reader)
			if text = string(all); err != nil || w.Header().Get("Content-Length") != "" {
				t.Errorf("%s: %v %v", c.name, err, w.Header())
			}
		}
		if text != c.body {
			t.Errorf("%s: %d bytes arrive of %d", c.name, len(text), len(c.body))
		}
	}
}

// A compressed representation has its own ETag, and If-None-Match recognizes either one.
func TestContentIsKeptByItsTag(t *testing.T) {
	handler := service.Compress(etag.NewContent([]byte(strings.Repeat("body ", 500)), "text/css"))
	ask := func(method string, header http.Header) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(method, "/", http.NoBody)
		r.Header = header
		handler.ServeHTTP(w, r)
		return w
	}
	plain, zipped := ask("GET", http.Header{}), ask("GET", http.Header{"Accept-Encoding": {"gzip"}})
	tag, zippedTag := plain.Header().Get("ETag"), zipped.Header().Get("ETag")
	want := strings.TrimSuffix(tag, `"`) + `-gzip"`
	if plain.Code != 200 || zipped.Code != 200 || zippedTag != want || plain.Body.Len() != 2500 {
		t.Errorf("%d %v, %d %v", plain.Code, plain.Header(), zipped.Code, zipped.Header())
	}
	if cache := plain.Header().Get("Cache-Control"); cache != "no-cache" {
		t.Errorf("Cache-Control %q", cache)
	}
	for _, known := range []string{tag, zippedTag, "W/" + tag, `"x", ` + zippedTag, "*"} {
		for _, method := range []string{"GET", "HEAD"} {
			w := ask(method, http.Header{"If-None-Match": {known}, "Accept-Encoding": {"gzip"}})
			if w.Code != 304 || w.Body.Len() > 0 || w.Header().Get("ETag") == "" || w.Header().Get("Vary") == "" {
				t.Errorf("%s with %s: %d %v", method, known, w.Code, w.Header())
			}
		}
	}
	if w := ask("GET", http.Header{"If-None-Match": {`"other"`}}); w.Code != 200 {
		t.Errorf("another tag: %d", w.Code)
	}
	part := ask("GET", http.Header{"Range": {"bytes=0-3"}, "Accept-Encoding": {"gzip"}})
	if part.Code != 206 || part.Body.String() != "body" || part.Header().Get("Content-Encoding") != "" {
		t.Errorf("a range: %d %q %v", part.Code, part.Body, part.Header())
	}
}

// RFC 9110, 8.6 and 9.3.2: HEAD returns the same headers about the content as GET, or none.
func TestHeadHasTheHeadersOfGet(t *testing.T) {
	handler := service.Compress(etag.NewContent([]byte(strings.Repeat("body ", 500)), "text/css"))
	s, _ := startServer(t, handler)
	defer func() { _ = s.Shutdown(t.Context()) }()
	for _, accept := range []string{"gzip", "identity"} {
		var heads []http.Header
		for _, method := range []string{"GET", "HEAD"} {
			r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr()+"/", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{"Accept-Encoding": {accept}, "If-Match": {"*"}}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || method == "HEAD" && len(body) > 0 {
				t.Errorf("%s: %d bytes, %v", method, len(body), err)
			}
			answer.Header.Del("Date")
			heads = append(heads, answer.Header)
		}
		if heads[1].Get("Content-Length") == "" { // HEAD need not know it
			heads[0].Del("Content-Length")
		}
		if !reflect.DeepEqual(heads[0], heads[1]) {
			t.Errorf("%s:\nGET  %v\nHEAD %v", accept, heads[0], heads[1])
		}
	}
}
