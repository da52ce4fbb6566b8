package apitest_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
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
        - {name: id, in: path, required: true, schema: {type: string, minLength: 1}}
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

// run starts a service that serves the document and gives the replies, and returns what the contract reports.
func run(t *testing.T, document, request string, replies ...reply) []string {
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
	contract := apitest.New(r, server.URL)
	for _, reply := range replies {
		contract.Call(reply.status, http.MethodPut, server.URL+"/things/1", request)
	}
	for _, fn := range r.cleanups {
		fn()
	}
	return r.reports
}

func TestDocumentedBehaviourPasses(t *testing.T) {
	if got := run(t, document, `{"name":"x"}`, yes, nothing, taken, other); got != nil {
		t.Errorf("%q", got)
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
			[]reply{yes.with(func(a *reply) { a.headers["X-New"] = "1" }), nothing, taken, other}, "header 'X-New'"},
		{"header where none is documented", document, good, []reply{yes, nothing.with(
			func(a *reply) { a.headers = map[string]string{"X-New": "1"} }), taken, other}, "header X-New"},
		{"missing header", document, good, []reply{yes.with(func(a *reply) { delete(a.headers, "ETag") }), nothing,
			taken, other}, "'ETag' was not found"},
		{"wrong header", document, good,
			[]reply{yes.with(func(a *reply) { a.headers["ETag"] = "1" }), nothing, taken, other}, "header 'etag'"},
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
			[]reply{yes, nothing, taken, other}, "example  of the request"},
		{"example of an answer", strings.Replace(document, "example: {name: a thing}\n        '204'",
			"example: {nam: a thing}\n        '204'", 1), good, []reply{yes, nothing, taken, other}, "200: example"},
		{"the document", strings.Replace(document, "description: Nothing.", "nothing: 1", 1), good,
			[]reply{yes, nothing, taken, other}, "the document"},
	} {
		if got := run(t, tc.document, tc.request, tc.replies...); !strings.Contains(strings.Join(got, "\n"), tc.want) {
			t.Errorf("%s: %q does not name %q", tc.name, got, tc.want)
		}
	}
}
