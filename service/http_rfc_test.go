package service_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/service"
)

// A request that is wrong whatever its resource is refused before any handler sees it.
func TestRequestsAreRefusedBeforeTheyAreRouted(t *testing.T) {
	s, _ := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	defer func() { _ = s.Shutdown(t.Context()) }()
	for _, c := range []struct {
		name, method, path string
		headers            http.Header
		status             int
		code, says         string // says: a header that the answer has
	}{
		{"as usual", "POST", "/", nil, 418, "", ""},
		{"long", "GET", "/" + strings.Repeat("a", 7999), nil, 418, "", ""},
		{"too long", "GET", "/" + strings.Repeat("a", 8000), nil, 414, "uri_too_long", ""},
		{"unknown method", "BREW", "/", nil, 501, "not_implemented", ""},
		{"case of the method", "get", "/", nil, 501, "not_implemented", ""},
		{"two tokens", "GET", "/", http.Header{"Authorization": {"Bearer a", "Bearer b"}}, 400, "duplicate_header", ""},
		{"two types", "POST", "/", http.Header{"Content-Type": {"a/b", "c/d"}}, 400, "duplicate_header", ""},
		{"two origins", "POST", "/", http.Header{"Origin": {"http://a", "http://b"}}, 400, "duplicate_header", ""},
		{"gzip", "POST", "/", http.Header{"Content-Encoding": {"gzip"}}, 415, "unsupported_encoding",
			"Accept-Encoding"},
		{"and more", "POST", "/", http.Header{"Content-Encoding": {",br"}}, 415, "unsupported", "Accept-Encoding"},
		{"identity", "POST", "/", http.Header{"Content-Encoding": {"Identity"}}, 418, "", ""},
		{"nothing is expected", "POST", "/", http.Header{"Expect": {"the-unexpected"}}, 417, "", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+s.Addr()+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if c.headers != nil {
			r.Header = c.headers
		}
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body := make([]byte, 1000)
		n, _ := answer.Body.Read(body)
		answer.Body.Close()
		if answer.StatusCode != c.status || !strings.Contains(string(body[:n]), c.code) {
			t.Errorf("%s: %d %s, want %d %s", c.name, answer.StatusCode, body[:n], c.status, c.code)
		}
		if c.says != "" && answer.Header.Get(c.says) != "identity" {
			t.Errorf("%s: %v", c.name, answer.Header)
		}
		if c.status != 417 && (answer.Header.Get("Cache-Control") != "no-store" || answer.Header.Get("Date") == "") {
			t.Errorf("%s: %v", c.name, answer.Header)
		}
	}
}

func TestJSONIsUTF8HoweverItIsWritten(t *testing.T) {
	for contentType, ok := range map[string]bool{
		"application/json": true, `application/json; charset="UTF-8"`: true, "Application/JSON;Charset=Utf-8": true,
		"application/json; charset=latin1": false, "application/json; charset": false,
		"application/problem+json": false, "": false,
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{}`))
		r.Header.Set("Content-Type", contentType)
		var body struct{}
		if err := service.DecodeJSON(w, r, &body); (err == nil) != ok {
			t.Errorf("%q: %v", contentType, err)
		} else if !ok && w.Header().Get("Accept") != "application/json" {
			t.Errorf("%q: the answer does not say what would be accepted", contentType)
		}
	}
}
