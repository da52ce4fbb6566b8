// Package apitest tests a service against its OpenAPI document. Every response must match the document, and so
// must every request, unless it is refused. Every documented response must occur at least once.
package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/paths"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"github.com/pb33f/libopenapi/orderedmap"
)

// Contract is an OpenAPI document together with the documented responses that have not been seen yet. Safe for
// concurrent use.
type Contract struct {
	t    testing.TB
	slow sync.WaitGroup // calls that the test's cleanup waits for
	// check is a function, and not a method of a field: a package that sees a type of libopenapi compiles the methods
	// of all its generic types, which takes 13 s.
	check func(*http.Request, *http.Response, []byte)
}

// document is an OpenAPI document as the library sees it, and what was seen of it.
type document struct {
	t         testing.TB
	model     *v3.Document
	validator validator.Validator

	mu     sync.Mutex
	unseen map[string]bool // documented answers: true until seen, then false
}

// general lists headers that any response may have. The documents describe them once, not per response.
var general = []string{
	"Accept", "Accept-Encoding", "Accept-Ranges", "Cache-Control", "Connection", "Content-Length", "Content-Type",
	"Date", "Etag", "Referrer-Policy", "Strict-Transport-Security", "Vary", "X-Content-Type-Options",
}

// refusals lists the statuses for which the request itself need not match the document.
var refusals = []int{400, 401, 404, 408, 413, 415, 422}

// New reads the document that a service serves at base, and validates its examples against its schemas. A
// property that a schema does not name is an error, unless the schema sets additionalProperties itself; so the
// document must compose objects without allOf. When the test ends, it fails for each documented answer
// (operation, status and problem code) that no [Contract.Client] has received.
func New(t testing.TB, base string) *Contract {
	t.Helper()
	closed, err := closeSchemas(fetch(t, base+"/openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := libopenapi.NewDocument(closed)
	if err != nil {
		t.Fatal(err)
	}
	model, err := parsed.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(parsed, config.WithFormatAssertions(), config.WithStrictMode(),
		config.WithStrictIgnorePaths("$.body.**"), config.WithStrictIgnoredHeadersExtra(general...))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	d := &document{t: t, model: &model.Model, validator: v, unseen: map[string]bool{}}
	if ok, errs := v.ValidateDocument(); !ok {
		d.report("the document", errs)
	}
	for path, item := range d.model.Paths.PathItems.FromOldest() {
		for method, operation := range item.GetOperations().FromOldest() {
			d.expect(strings.ToUpper(method), path, operation)
		}
	}
	c := &Contract{t: t, check: d.check}
	t.Cleanup(func() {
		c.slow.Wait()
		for _, answer := range slices.Sorted(maps.Keys(d.unseen)) {
			if d.unseen[answer] {
				t.Errorf("documented, but not seen: %s", answer)
			}
		}
	})
	return c
}

func fetch(t testing.TB, url string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, response.Status, err)
	}
	return body
}

// closeSchemas sets additionalProperties to false in each object schema that does not set it.
func closeSchemas(document []byte) ([]byte, error) {
	var root any
	err := json.Unmarshal(document, &root)
	var visit func(node any)
	visit = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				visit(child)
			}
		case map[string]any:
			for _, child := range node {
				visit(child)
			}
			if _, ok := node["properties"].(map[string]any); ok && node["additionalProperties"] == nil {
				node["additionalProperties"] = false
			}
		}
	}
	visit(root)
	if err != nil {
		return nil, err
	}
	return json.Marshal(root)
}

// answer names a response, for example "POST /v1/members 409 username_taken". Only problems have a code.
func answer(method, path, status, contentType string, body []byte) string {
	name := method + " " + path + " " + status
	if strings.HasPrefix(contentType, "application/problem+json") {
		var problem struct{ Code string }
		_ = json.Unmarshal(body, &problem) // schema validation reports a malformed body
		name += " " + problem.Code
	}
	return name
}

// expect records the documented answers of an operation and validates its examples. A problem must have one
// example per code, and a required header must have an example.
func (d *document) expect(method, path string, operation *v3.Operation) {
	url := strings.NewReplacer("{", "", "}", "").Replace(path)
	if operation.RequestBody != nil {
		for contentType, media := range operation.RequestBody.Content.FromOldest() {
			for name, body := range d.examples(media) {
				request, _ := http.NewRequest(method, url, bytes.NewReader(body)) //nolint:noctx // it is never sent
				request.Header.Set("Content-Type", contentType)
				_, errs := d.validator.GetRequestBodyValidator().ValidateRequestBody(request)
				d.report(fmt.Sprintf("%s %s: example %s of the request", method, path, name), errs)
			}
		}
	}
	for status, response := range operation.Responses.Codes.FromOldest() {
		if orderedmap.Len(response.Content) == 0 {
			d.unseen[answer(method, path, status, "", nil)] = true
		}
		for contentType, media := range response.Content.FromOldest() {
			bodies := d.examples(media)
			for name, body := range bodies {
				documented := answer(method, path, status, contentType, body)
				d.unseen[documented] = true
				//nolint:bodyclose // it is in memory
				req, resp := exchange(method, url, status, contentType, response.Headers, body)
				_, errs := d.validator.GetResponseBodyValidator().ValidateResponseBody(req, resp)
				d.report(fmt.Sprintf("%s: example %s", documented, name), errs)
			}
			if len(bodies) == 0 {
				d.unseen[answer(method, path, status, contentType, nil)] = true
			}
		}
	}
}

// exchange builds a request and its response from examples.
func exchange(
	method, path, status, contentType string, headers *orderedmap.Map[string, *v3.Header], body []byte,
) (*http.Request, *http.Response) {
	request, _ := http.NewRequest(method, path, nil) //nolint:noctx // it is never sent
	code, _ := strconv.Atoi(status)
	response := &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {contentType}},
		Body: io.NopCloser(bytes.NewReader(body))}
	for name, header := range headers.FromOldest() {
		if header.Example != nil {
			response.Header.Set(name, header.Example.Value)
		}
	}
	return request, response
}

// examples returns the examples of a body by name, as they would be sent.
func (d *document) examples(media *v3.MediaType) map[string][]byte {
	found := map[string][]byte{}
	add := func(name string, node interface{ Decode(any) error }) {
		var value any
		err := node.Decode(&value)
		if err == nil {
			found[name], err = json.Marshal(value)
		}
		if err != nil {
			d.t.Errorf("example %s: %v", name, err)
		}
	}
	if media.Example != nil {
		add("", media.Example)
	}
	for name, example := range media.Examples.FromOldest() {
		add(name, example.Value)
	}
	return found
}

func (d *document) report(what string, errs []*errors.ValidationError) {
	d.t.Helper()
	for _, err := range errs {
		d.t.Errorf("%s: %s: %s", what, err.Message, err.Reason)
		for _, detail := range err.SchemaValidationErrors {
			d.t.Errorf("%s: %s", what, detail.Error())
		}
	}
}

// Client returns a client that validates every exchange against the document.
func (c *Contract) Client() *http.Client { return &http.Client{Transport: (*transport)(c)} }

type transport Contract

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	(*Contract)(t).check(request, response, body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

func (d *document) check(request *http.Request, response *http.Response, body []byte) {
	item, _, path := paths.FindPath(request, d.model, nil)
	if item == nil || item.GetOperations().GetOrZero(strings.ToLower(request.Method)) == nil {
		d.t.Errorf("%s %s is not documented", request.Method, request.URL.Path)
		return
	}
	status := strconv.Itoa(response.StatusCode)
	name := answer(request.Method, path, status, response.Header.Get("Content-Type"), body)
	d.mu.Lock()
	_, documented := d.unseen[name]
	d.unseen[name] = false
	d.mu.Unlock()
	if !documented {
		d.t.Errorf("not documented: %s", name)
		return
	}
	described := item.GetOperations().GetOrZero(strings.ToLower(request.Method)).Responses.Codes.GetOrZero(status)
	if (orderedmap.Len(described.Content) == 0) != (len(body) == 0) {
		d.t.Errorf("%s: the body has %d bytes", name, len(body))
	}
	for header := range response.Header { // the library checks headers only if some are documented
		if orderedmap.Len(described.Headers) == 0 && !slices.Contains(general, header) {
			d.t.Errorf("%s: an undocumented header %s", name, header)
		}
	}
	_, errs := d.validator.ValidateHttpResponse(request, response)
	d.report(name, errs)
	if !slices.Contains(refusals, response.StatusCode) {
		d.report(name, d.request(request))
	}
}

// request validates a request that was sent.
func (d *document) request(sent *http.Request) []*errors.ValidationError {
	request := sent.Clone(sent.Context())
	if sent.GetBody != nil {
		request.Body, _ = sent.GetBody() // never fails for bodies in memory
	}
	_, errs := d.validator.ValidateHttpRequest(request)
	return errs
}
