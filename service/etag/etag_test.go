package etag_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/signup-saga/signup-saga/service/etag"
)

func TestRead(t *testing.T) {
	for _, c := range []struct {
		lines []string
		any   bool
		tags  []string // nil if the header is malformed
	}{
		{[]string{`"2"`}, false, []string{`"2"`}},
		{[]string{`"999", "2"`}, false, []string{`"999"`, `"2"`}},
		{[]string{`"999"`, `W/"2" ,,`, ``}, false, []string{`"999"`, `W/"2"`}},
		{[]string{"\t\"a,b\"\t,\"\""}, false, []string{`"a,b"`, `""`}},
		{[]string{"*"}, true, []string{}},
		{[]string{" * "}, true, []string{}},
		{[]string{"*", "*"}, false, nil},
		{[]string{`*, "2"`}, false, nil},
		{[]string{`2`}, false, nil},
		{[]string{`"2`}, false, nil},
		{[]string{`"1" "2"`}, false, nil},
		{[]string{`w/"2"`}, false, nil},
		{[]string{`W/2`}, false, nil},
		{[]string{`"a b"`}, false, nil},
		{[]string{`,`}, false, nil},
		{[]string{``}, false, nil},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		r.Header["If-Match"] = c.lines
		p, ok := etag.Read(r, "If-Match")
		if c.tags == nil == ok || ok && (p.Any != c.any || !slices.Equal(p.Tags, c.tags)) || !p.Given {
			t.Errorf("%q: %+v, %v", c.lines, p, ok)
		}
	}
	p, ok := etag.Read(httptest.NewRequest(http.MethodPost, "/", http.NoBody), "If-Match")
	if p.Given || !ok {
		t.Errorf("without the header: %+v, %v", p, ok)
	}
}

func TestNotModified(t *testing.T) {
	for header, want := range map[string]int{
		`"2"`: 304, `W/"2"`: 304, `"1", "2"`: 304, `*`: 304,
		`"1"`: 200, `"22"`: 200, `2`: 200, `"2-delayed"`: 200, ``: 200,
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		if header != "" {
			r.Header.Set("If-None-Match", header)
		}
		done := etag.NotModified(w, r, `"2"`)
		if tag := w.Header().Get("ETag"); done != (want == 304) || w.Code != want || tag != `"2"` {
			t.Errorf("%s: %v %d %s", header, done, w.Code, tag)
		}
	}
}

// RFC 9110, 14.2: a Range is for GET and for units that the server knows; otherwise it is ignored.
func TestRanges(t *testing.T) {
	content := etag.NewContent([]byte("0123456789"), "text/plain")
	for _, c := range []struct {
		method, header string
		status         int
		body           string
	}{
		{"GET", "bytes=2-3", 206, "23"},
		{"GET", "Bytes=2-3", 206, "23"},
		{"GET", "bytes=-2", 206, "89"},
		{"GET", "bytes=8-", 206, "89"},
		{"GET", "bytes=10-", 416, "invalid range: failed to overlap\n"},
		{"GET", "bytes=0-0,2-3,0-0,0-0,0-0", 200, "0123456789"},
		{"GET", "lines=0-1", 200, "0123456789"},
		{"GET", "bytes=x", 200, "0123456789"},
		{"HEAD", "bytes=2-3", 200, ""},
		{"HEAD", "bytes=10-", 200, ""},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(c.method, "/", http.NoBody)
		r.Header.Set("Range", c.header)
		content.ServeHTTP(w, r)
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.header, w.Code, w.Body, c.status, c.body)
		}
	}
}
