package service_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

// A query with a parameter that cannot be parsed is refused; the parameter is not ignored.
func TestQueryIsReadWholeOrNotAtAll(t *testing.T) {
	for query, ok := range map[string]bool{
		"": true, "state=ready&limit=2": true, "state=%25%3b": true, "&": true, "limit": true,
		"state=ready;limit=2": false, "state=%zz": false, "state=ready&%": false, "others=true;": false,
	} {
		q, err := service.Query(httptest.NewRequest(http.MethodGet, "/?"+query, http.NoBody))
		var refused *wire.Problem
		if (err == nil) != ok || err != nil && (q != nil || !errors.As(err, &refused) || refused.Status != 422) {
			t.Errorf("%q: %v %v", query, q, err)
		}
	}
}

// RFC 9110, 11.1 and 11.4: the scheme is case-insensitive, and one or more spaces follow it.
func TestBearer(t *testing.T) {
	for header, want := range map[string]string{
		"Bearer abc": "abc", "bEARER abc": "abc", "Bearer   abc": "abc", "Bearer": "", "Bearer ": "",
		"Basic abc": "", "Bearerabc": "", "": "",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header.Set("Authorization", header)
		if token := service.Bearer(r); token != want {
			t.Errorf("%q: %q, want %q", header, token, want)
		}
	}
}

// RFC 3986, 6.2.2.2: escapes of letters, digits and -._~ change nothing; others do.
func TestPathsAreNormalized(t *testing.T) {
	s, _ := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.EscapedPath(), " ", r.URL.RawPath)
	}))
	defer func() { _ = s.Shutdown(t.Context()) }()
	for path, want := range map[string]string{
		"/v1/a": "/v1/a ", "/v1/%61": "/v1/a ", "/%76%31/sgn%5fAz%7E%2d%2E%30%39": "/v1/sgn_Az~-.09 ",
		"/a%2Fb": "/a%2Fb /a%2Fb", "/%61%2fb": "/a%2fb /a%2fb", "/%C3%A9%61": "/%C3%A9a ", "/%40%5B": "/%40%5B /%40%5B",
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = path
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if string(body) != want {
			t.Errorf("%s: %q, want %q", path, body, want)
		}
	}
}
