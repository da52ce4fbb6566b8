package apitest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// Answer is what a call was answered.
type Answer struct {
	Status int
	Header http.Header
	Body   map[string]any // nil if it is no JSON object
}

// Call sends a request, with body as JSON unless it is empty, and the headers given
// as names and values. It fails the test if the status is not as wanted.
func (c *Contract) Call(want int, method, url, body string, headers ...string) Answer {
	c.t.Helper()
	a := c.send(method, url, strings.NewReader(body), int64(len(body)), headers)
	if a.Status != want {
		c.t.Errorf("%s %s: %d %v, want %d", method, url, a.Status, a.Body, want)
	}
	return a
}

// Refusals provokes what an operation answers to a body that it cannot read: 400, 408
// (which takes as long as the server's patience; the test's end waits for it), 413, 415.
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

// Until calls again and again until the answer is a problem with the wanted code. Each
// answer is held to the document.
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
	// the test's own ends before what it waits for at last
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
	_ = json.NewDecoder(response.Body).Decode(&a.Body) // metrics are no JSON
	return a
}
