package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// A token that can be guessed is refused at the start, with what to do. The tokens of the documents and of
// development are accepted.
func TestTokenIsStrong(t *testing.T) {
	hexadecimal := "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	for text, strong := range map[string]bool{
		"x": false, "secret": false, hexadecimal[:31]: false, "k3Vb8QzXw1Rt6YpLm0NsD": false,
		strings.Repeat("ab", 30): false, hexadecimal + " x": false, " \n ": false,
		hexadecimal: true, "k3Vb8QzXw1Rt6YpLm0NsDf": true, "development-only-storage-token": true,
		hexadecimal + "\n" + hexadecimal: true, token: true,
	} {
		vars := environment(t, "nats://127.0.0.1:1")
		vars["STORAGE_TOKEN"], vars["BACKOFF_CAP"] = text, "0s" // the latter ends every start
		err := run(t.Context(), []string{"serve"}, func(name string) string { return vars[name] }, io.Discard)
		if err == nil {
			t.Fatalf("%q: it started", text)
		}
		if told := strings.Contains(err.Error(), "STORAGE_TOKEN: ") &&
			strings.Contains(err.Error(), "openssl rand -hex 32"); told == strong {
			t.Errorf("%q: %v", text, err)
		}
		if strings.TrimSpace(text) != "x" && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

// Wrong tokens are limited, logged and counted as docs/security-events.md says.
func TestWrongTokensAreLimited(t *testing.T) {
	vars := environment(t, testenv.NATS(t).URL)
	migrated(t, vars)
	var log bytes.Buffer
	p := startLogging(t, vars, &log)
	ask := func(token string) int {
		t.Helper()
		vars["STORAGE_TOKEN"] = token
		status, _ := p.call("GET", "/v1/storages", "")
		return status
	}
	for range 10 {
		if got := ask("a wrong token"); got != http.StatusUnauthorized {
			t.Fatalf("a wrong token: %d", got)
		}
	}
	if got := ask(token); got != http.StatusTooManyRequests {
		t.Errorf("after ten wrong tokens: %d", got)
	}
	_, metrics := p.call("GET", "/metrics", "")
	for _, want := range []string{
		`storage_tokens_refused_total{reason="unknown"} 10`, `storage_tokens_refused_total{reason="limited"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	p.stop()
	if text := log.String(); strings.Count(text, "storage token refused") != 10 ||
		!strings.Contains(text, `"waits":true`) || strings.Contains(text, token) ||
		strings.Contains(text, "a wrong token") {
		t.Errorf("the log: %s", text)
	}
}
