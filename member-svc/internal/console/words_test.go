package console

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
)

// Every kind of moment that the services write has a text in the console and is listed in the API's
// documentation.
func TestEveryMomentHasWords(t *testing.T) {
	written := []string{
		string(saga.SignedUp), string(saga.Provisioned), string(saga.Rejected), string(saga.Deprovisioned),
		string(saga.Retried), string(saga.Withdraw), string(saga.AttemptFailed),
		string(saga.GaveUp), string(saga.Redriven), string(saga.TimerDue), string(saga.Erased),
		string(saga.CommandedAgain),
	}
	sources, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	literal := regexp.MustCompile(`INSERT INTO saga_event[^)]*\)\s+SELECT [^,]+, '([a-z_]+)'`)
	found := 0
	for _, file := range sources {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range literal.FindAllStringSubmatch(string(raw), -1) {
			written = append(written, m[1])
			found++
		}
	}
	if found == 0 {
		t.Error("no statement is found that writes moments of its own")
	}
	api, err := os.ReadFile("../api/admin.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(api), "description: 'What: ")
	list, _, _ = strings.Cut(list, "\n")
	for _, kind := range written {
		if kinds[kind].text == "" || !strings.Contains(list, kind) {
			t.Errorf("%s: the console says %q, the API %q", kind, kinds[kind].text, list)
		}
	}
	if len(kinds) != len(written) {
		t.Errorf("%d kinds have words, %d are written", len(kinds), len(written))
	}
}
