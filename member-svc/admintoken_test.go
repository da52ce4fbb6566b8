package main

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// Tokens that the subcommand creates are accepted, limited and ended as docs/security-events.md describes.
func TestAdminTokens(t *testing.T) {
	make := func(args ...string) (secret, line string) {
		t.Helper()
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"admin-token"}, args...), nil, &out); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out.String(), "\n")
		if len(lines) != 5 {
			t.Fatalf("printed %q", out.String())
		}
		return lines[1], lines[3]
	}
	ann, lineOfAnn := make("ann", "operator")
	bob, lineOfBob := make("bob", "viewer", "--expires", "90d")
	env := environment(t, storetest.URL(t), "nats://127.0.0.1:1")
	if err := os.WriteFile(env["ADMIN_TOKENS_FILE"], []byte(lineOfAnn+"\n"+lineOfBob+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, env)
	overview := func(token string) int {
		status, _, _, _ := call(t, "GET", s.admin+"/admin/v1/overview", "", "Authorization", "Bearer "+token)
		return status
	}
	for token, want := range map[string]int{ann: 200, bob: 200, ann[:40]: 401} {
		if got := overview(token); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	for range 9 {
		overview("a wrong token")
	}
	if got := overview(ann); got != http.StatusTooManyRequests {
		t.Errorf("after ten wrong tokens: %d", got)
	}
	_, _, _, metrics := call(t, "GET", s.admin+"/metrics", "")
	for _, want := range []string{
		`admin_tokens_refused_total{reason="unknown"} 9`, `admin_tokens_refused_total{reason="typo"} 1`,
		`admin_tokens_refused_total{reason="limited"} 1`, "admin_token_expiry_timestamp_seconds 1.",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	log := s.log.String()
	if !strings.Contains(log, "admin token refused") ||
		strings.Contains(log, ann[:40]) || strings.Contains(log, "a wrong token") {
		t.Errorf("the log: %s", log)
	}
}

func TestAdminTokenUsage(t *testing.T) {
	for _, args := range []string{
		"", "ann", "ann king", "ann viewer 90d", "ann viewer --expires", "ann viewer --expires never",
		"ann viewer --expires -1d", "ann viewer --expires 0d",
		"ann viewer --expires 9999999999d", "a:b viewer", "ann viewer operator",
	} {
		var out bytes.Buffer
		err := run(t.Context(), append([]string{"admin-token"}, strings.Fields(args)...), nil, &out)
		if err == nil || out.Len() > 0 {
			t.Errorf("%q: %v, %q", args, err, out.String())
		}
	}
}
