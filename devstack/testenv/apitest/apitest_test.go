package apitest_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/signup-saga/signup-saga/devstack/testenv/apitest"
)

const document = `
openapi: 3.1.0
info: {title: Things, version: 1.0.0}
paths:
  /things/{id}:
    put:
      parameters:
        - {name: id, in: path, required: true, schema: {type: string, pattern: '^1$'}}
        - {name: n, in: query, schema: {type: integer, maximum: 9}}
      requestBody:
        required: true
        content:
          application/json:
            schema: {type: object, required: [name], properties: {name: {type: string}}}
            example: {name: a thing}
      responses:
        '200':
          description: Yes.
          headers:
            ETag: {required: true, example: '"1"', schema: {type: string, pattern: '^"[0-9]+"$'}}
          content:
            application/json:
              schema:
                type: object
                required: [name]
                properties:
                  name: {type: string}
                  at: {type: string, format: date-time}
              example: {name: a thing}
        '204': {description: Nothing.}
        '409':
          description: No.
          content:
            application/problem+json:
              schema: {type: object, required: [code], properties: {code: {type: string}}}
              examples:
                taken: {value: {code: taken}}
                other: {value: {code: other}}
`

// recorder collects what a test would report.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	reports  []string
	cleanups []func()
}

func (*recorder) Helper()             {}
func (r *recorder) Cleanup(fn func()) { r.cleanups = append(r.cleanups, fn) }
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports = append(r.reports, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// reply is one answer of the service under test.
type reply struct {
	status  int
	headers map[string]string
	body    string
}

func (a reply) with(change func(*reply)) reply {
	a.headers = maps.Clone(a.headers)
	change(&a)
	return a
}

var (
	yes     = reply{200, map[string]string{"ETag": `"1"`, "Content-Type": "application/json"}, `{"name":"x"}`}
	nothing = reply{204, nil, ""}
	taken   = reply{409, map[string]string{"Content-Type": "application/problem+json"}, `{"code":"taken"}`}
	other   = taken.with(func(a *reply) { a.body = `{"code":"other"}` })
)

// put sends a body once for each reply.
func put(body string, replies []reply) func(c *apitest.Contract, url string) {
	return func(c *apitest.Contract, url string) {
		for _, reply := range replies {
			c.Call(reply.status, http.MethodPut, url+"/1", body)
		}
	}
}

// run starts a service that serves the document and gives the replies, and returns what the contract reports.
func run(t *testing.T, document string, calls func(c *apitest.Contract, url string), replies ...reply) []string {
	t.Helper()
	next := replies
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		var content any
		if err := yaml.Unmarshal([]byte(document), &content); err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(content)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range next[0].headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(next[0].status)
		_, _ = w.Write([]byte(next[0].body))
		next = next[1:]
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	r := &recorder{TB: t}
	var test sync.WaitGroup
	test.Go(func() {
		calls(apitest.New(r, server.URL), server.URL+"/things")
	})
	test.Wait()
	for _, fn := range r.cleanups {
		fn()
	}
	return r.reports
}

func TestDocumentedBehaviourPasses(t *testing.T) {
	replies := []reply{yes, nothing, taken, other}
	if got := run(t, document, put(`{"name":"x"}`, replies), replies...); got != nil {
		t.Errorf("%q", got)
	}
}

// A request that is accepted has to be as documented, too.
func TestRequestsAreChecked(t *testing.T) {
	secured := strings.Replace(document, "    put:\n", "    put:\n      security: [{token: []}]\n", 1)
	for _, tc := range []struct {
		name, document, path string
		headers              []string
		want                 string
	}{
		{"documented", secured, "/1?n=9", []string{"Authorization", "Bearer x"}, ""},
		{"path", document, "/2", nil, "'id'"},
		{"query", document, "/1?n=10", nil, "'n'"},
		{"query that is no number", document, "/1?n=x", nil, "'n'"},
		{"two values", document, "/1?n=1&n=2", nil, "'n' has 2 values"},
		{"undocumented query", document, "/1?m=1", nil, "'m'"},
		{"undocumented header", document, "/1", []string{"X-New", "1"}, "'X-New'"},
		{"content type", document, "/1", []string{"Content-Type", "text/plain"}, "text/plain"},
		{"credentials", secured, "/1", nil, "no credentials"},
	} {
		got := run(t, tc.document, func(c *apitest.Contract, url string) {
			c.Call(http.StatusOK, http.MethodPut, url+tc.path, `{"name":"x"}`, tc.headers...)
		}, yes)
		requests := slices.DeleteFunc(got, func(report string) bool {
			return !strings.Contains(report, "the request:")
		})
		if text := strings.Join(requests, "\n"); text != "" && tc.want == "" || !strings.Contains(text, tc.want) {
			t.Errorf("%s: %q does not name %q", tc.name, got, tc.want)
		}
	}
}

func TestDeviationsAreNamed(t *testing.T) {
	const good = `{"name":"x"}`
	for _, tc := range []struct {
		name, document, request string
		replies                 []reply
		want                    string
	}{
		{"an answer is missing", document, good, []reply{yes, nothing, taken}, "not seen: PUT /things/{id} 409 other"},
		{"status", document, good, []reply{yes, nothing, taken, other, {500, nil, ""}},
			"not documented: PUT /things/{id} 500"},
		{"code", document, good, []reply{yes, nothing, taken, other,
			taken.with(func(a *reply) { a.body = `{"code":"new"}` })}, "not documented: PUT /things/{id} 409 new"},
		{"header", document, good,
			[]reply{yes.with(func(a *reply) { a.headers["X-New"] = "1" }), nothing, taken, other},
			"an undocumented header 'X-New'"},
		{"header where none is documented", document, good, []reply{yes, nothing.with(
			func(a *reply) { a.headers = map[string]string{"X-New": "1"} }), taken, other},
			"an undocumented header 'X-New'"},
		{"missing header", document, good, []reply{yes.with(func(a *reply) { delete(a.headers, "ETag") }), nothing,
			taken, other}, "'ETag' is missing"},
		{"wrong header", document, good,
			[]reply{yes.with(func(a *reply) { a.headers["ETag"] = "1" }), nothing, taken, other}, "'ETag': "},
		{"content type", document, good, []reply{yes.with(func(a *reply) { a.headers["Content-Type"] = "text/plain" }),
			nothing, taken, other}, "text/plain"},
		{"member", document, good,
			[]reply{yes.with(func(a *reply) { a.body = `{"name":"x","new":1}` }), nothing, taken, other}, "new"},
		{"missing member", document, good, []reply{yes.with(func(a *reply) { a.body = `{}` }), nothing, taken, other},
			"name"},
		{"format", document, good, []reply{yes.with(func(a *reply) { a.body = `{"name":"x","at":"today"}` }), nothing,
			taken, other}, "date-time"},
		{"body", document, good, []reply{yes, nothing, taken, other, {200, yes.headers, ""}}, "the body has 0 bytes"},
		{"accepted request", document, `{}`, []reply{yes, nothing, taken, other}, "name"},
		{"member of a request", document, `{"name":"x","new":1}`, []reply{yes, nothing, taken, other}, "new"},
		{"example of a request", strings.Replace(document, "{name: a thing}", "{name: 1}", 1), good,
			[]reply{yes, nothing, taken, other}, "requestBody/content/application~1json: example "},
		{"example of an answer", strings.Replace(document, "example: {name: a thing}\n        '204'",
			"example: {nam: a thing}\n        '204'", 1), good, []reply{yes, nothing, taken, other},
			"200/content/application~1json: example "},
		{"a keyword of a schema", strings.Replace(document, "type: string, format", "type: text, format", 1), good,
			[]reply{yes, nothing, taken, other}, "the document"},
		{"the document", strings.Replace(document, "description: Nothing.", "nothing: 1", 1), good,
			[]reply{yes, nothing, taken, other}, "the document"},
	} {
		got := run(t, tc.document, put(tc.request, tc.replies), tc.replies...)
		if !strings.Contains(strings.Join(got, "\n"), tc.want) {
			t.Errorf("%s: %q does not name %q", tc.name, got, tc.want)
		}
	}
}
