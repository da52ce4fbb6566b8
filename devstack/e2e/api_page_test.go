package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// example is a command on a page, and the output that the page shows for it.
type example struct{ command, shown string }

// examples returns the commands in a page's console blocks.
func examples(page string) (found []example) {
	for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?)^```").FindAllStringSubmatch(page, -1) {
		for _, part := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			command, shown, _ := strings.Cut(strings.TrimRight(part, "\n"), "\n")
			found = append(found, example{command, shown})
		}
	}
	return found
}

// The page about the APIs is correct: its commands run one after the other in one shell, and print what the page
// shows, except for ids, times and tokens.
func TestAPIPage(t *testing.T) {
	s := startStack(t, nil)
	page := examples(mustRead(t, filepath.Join(repository, "docs", "api.md")))
	first := example{command: ". " + filepath.Join(s.dir, "devstack.env")} // the page says so in its text
	runExamples(t, t.TempDir(), append([]example{first}, page...))
}

// The tour of the README works as shown, on a stack that is as fresh as its reader's.
func TestReadmeTour(t *testing.T) {
	s := startStack(t, nil)
	page := mustRead(t, filepath.Join(repository, "README.md"))
	if !strings.Contains(page, "`bin/devstack up --dir /tmp/stack --faults`") {
		t.Error("the README does not say how to start the stack of the tour")
	}
	runExamples(t, repository, examples(strings.ReplaceAll(page, "/tmp/stack", s.dir)))
}

// runExamples runs commands one after the other in one shell, and compares their output with the page.
func runExamples(t *testing.T, dir string, page []example) {
	t.Helper()
	const mark = "\n=== next example ===\n"
	script := "set -eu\n"
	for _, e := range page {
		script += e.command + "\nprintf '" + strings.ReplaceAll(mark, "\n", `\n`) + "'\n"
	}
	ctx, cancel := context.WithTimeout(t.Context(), healLimit)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", script)
	shell.Dir = dir
	var stderr bytes.Buffer
	shell.Stderr = &stderr
	out, err := shell.Output()
	printed := strings.Split(string(out), mark)
	if err != nil || len(printed) != len(page)+1 || len(page) < 9 {
		t.Fatalf("%v after %d of %d examples: %s%s", err, len(printed)-1, len(page), printed[len(printed)-1],
			stderr.String())
	}
	for i, e := range page {
		if difference := compare(e.shown, printed[i]); difference != "" {
			t.Errorf("$ %s\n%s\nprinted:\n%s", e.command, difference, printed[i])
		}
	}
}

// compare describes how printed differs from shown: different JSON, or a missing line before it. It returns ""
// if they agree. A shown line that ends with … matches every line with that beginning.
func compare(shown, printed string) string {
	shownLines, shownJSON := parts(shown)
	printedLines, printedJSON := parts(printed)
	for _, line := range shownLines {
		beginning, open := strings.CutSuffix(line, "…")
		if !slices.ContainsFunc(printedLines,
			func(p string) bool { return p == line || open && strings.HasPrefix(p, beginning) }) {
			return "no line " + line
		}
	}
	if len(shownLines) == 0 && len(printedLines) > 0 {
		return "lines where none are shown"
	}
	if !reflect.DeepEqual(shownJSON, printedJSON) {
		return fmt.Sprintf("shown   %v\nprinted %v", shownJSON, printedJSON)
	}
	return ""
}

// volatile lists what differs from run to run, and the placeholder that replaces it.
var volatile = []struct {
	kind    string
	pattern *regexp.Regexp
}{
	{"signup", regexp.MustCompile(`sgn_[0-9a-f]{40}`)},
	{"uuid", regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)},
	{"key", regexp.MustCompile(`[0-9a-f]{2}/uuid`)},
	{"time", regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)},
	{`"token"`, regexp.MustCompile(`"[A-Za-z0-9_-]{43}"`)},
}

// parts splits a text into the lines before its JSON, and the JSON, both with placeholders for what is volatile.
func parts(text string) (lines []string, value any) {
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.kind)
	}
	head, body, found := strings.Cut("\n"+text, "\n{")
	if found && json.Unmarshal([]byte("{"+body), &value) != nil {
		value = "{" + body
	}
	for line := range strings.Lines(head) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, value
}
