// Package apitest tests a service against its OpenAPI document. Every response must match the document, and so
// must every request, unless it is refused. Every documented response must occur at least once.
package apitest

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Contract is an OpenAPI document together with the documented responses that have not been seen yet. Safe for
// concurrent use.
type Contract struct {
	t        testing.TB
	document *document

	slow   sync.WaitGroup // calls that the test's cleanup waits for
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
	d, err := parse(closed)
	if err != nil {
		t.Fatalf("the document: %v", err)
	}
	c := &Contract{t: t, document: d, unseen: map[string]bool{}}
	for path, item := range d.Paths {
		for method, o := range item.operations() {
			for status, response := range o.Responses {
				c.expect(method+" "+path+" "+status, response)
			}
		}
	}
	t.Cleanup(func() {
		c.slow.Wait()
		for _, answer := range slices.Sorted(maps.Keys(c.unseen)) {
			if c.unseen[answer] {
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
func answer(name, contentType string, body []byte) string {
	if strings.HasPrefix(contentType, "application/problem+json") {
		var problem struct{ Code string }
		_ = json.Unmarshal(body, &problem) // schema validation reports a malformed body
		name += " " + problem.Code
	}
	return name
}

// expect records the documented answers of a status. A problem must have one example per code.
func (c *Contract) expect(name string, response response) {
	if len(response.Content) == 0 {
		c.unseen[answer(name, "", nil)] = true
	}
	for contentType, media := range response.Content {
		for _, example := range media.Examples {
			body, err := json.Marshal(example.Value)
			if err != nil {
				c.t.Error(err)
			}
			c.unseen[answer(name, contentType, body)] = true
		}
		if len(media.Examples) == 0 {
			c.unseen[answer(name, contentType, nil)] = true
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

func (c *Contract) check(request *http.Request, response *http.Response, body []byte) {
	operation, path, inPath := c.document.find(request.Method, request.URL)
	if operation == nil {
		c.t.Errorf("%s %s is not documented", request.Method, request.URL.Path)
		return
	}
	status := strconv.Itoa(response.StatusCode)
	name := answer(request.Method+" "+path+" "+status, response.Header.Get("Content-Type"), body)
	c.mu.Lock()
	_, documented := c.unseen[name]
	c.unseen[name] = false
	c.mu.Unlock()
	if !documented {
		c.t.Errorf("not documented: %s", name)
		return
	}
	described := operation.Responses[status]
	if err := described.check(response.Header, body); err != nil {
		c.t.Errorf("%s: %v", name, err)
	}
	if slices.Contains(refusals, response.StatusCode) {
		return
	}
	var sent []byte
	if request.GetBody != nil {
		again, err := request.GetBody()
		if err == nil {
			sent, err = io.ReadAll(again)
		}
		if err != nil {
			c.t.Errorf("%s: read the request again: %v", name, err)
		}
	}
	if err := operation.checkRequest(request, sent, inPath); err != nil {
		c.t.Errorf("%s: the request: %v", name, err)
	}
}
