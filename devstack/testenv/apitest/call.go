package apitest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// Answer is the response to a call.
type Answer struct {
	Status int
	Header http.Header
	Body   map[string]any // nil if it is not a JSON object
}

// Call sends a request. A non-empty body is sent as JSON. headers alternates names and values. Call fails the
// test if the status is not want.
func (c *Contract) Call(want int, method, url, body string, headers ...string) Answer {
	c.t.Helper()
	a := c.send(method, url, strings.NewReader(body), int64(len(body)), headers)
	if a.Status != want {
		c.t.Errorf("%s %s: %d %v, want %d", method, url, a.Status, a.Body, want)
	}
	return a
}

// Refusals sends bodies that an operation cannot read, and expects 400, 408, 413 and 415. The 408 takes as long
// as the server's read timeout, so it runs in the background; the test's cleanup waits for it.
func (c *Contract) Refusals(method, url string, headers ...string) {
	c.t.Helper()
	c.Call(http.StatusBadRequest, method, url, `{`, headers...)
	c.Call(http.StatusRequestEntityTooLarge, method, url, `{"`+strings.Repeat("x", 9<<10)+`":1}`, headers...)
	c.Call(http.StatusUnsupportedMediaType, method, url, `{}`,
		append([]string{"Content-Type", "text/plain"}, headers...)...)
	c.slow.Go(func() {
		body, never := io.Pipe()
		defer never.Close()
		if a := c.send(method, url, body, 100, headers); a.Status != http.StatusRequestTimeout {
			c.t.Errorf("%s %s with a body that does not come: %d %v", method, url, a.Status, a.Body)
		}
	})
}

// Until repeats a call for up to 30 s, until the response is a problem with the given code. Each response is
// validated against the document.
func (c *Contract) Until(code, method, url string, body func() string, headers ...string) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		text := body()
		if a := c.send(method, url, strings.NewReader(text), int64(len(text)), headers); a.Body["code"] == code {
			return
		}
	}
	c.t.Errorf("%s %s was never answered %s", method, url, code)
}

func (c *Contract) send(method, url string, body io.Reader, length int64, headers []string) (a Answer) {
	c.t.Helper()
	// The test's own context ends before the cleanup that waits for slow calls.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		c.t.Error(err)
		return a
	}
	if request.ContentLength = length; length > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.Client().Do(request)
	if err != nil {
		c.t.Error(err)
		return a
	}
	defer response.Body.Close()
	a.Status, a.Header = response.StatusCode, response.Header
	_ = json.NewDecoder(response.Body).Decode(&a.Body) // metrics are not JSON
	return a
}
