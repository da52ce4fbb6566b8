package documents

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv/variables"
)

const root = "../../.." // of the repository

func mustRead(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents returns the pages whose links and names are checked.
func documents(t testing.TB) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "*/*.md", "docs/adr/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no pages %s: %v", pattern, err)
		}
		for _, file := range files {
			pages[file] = mustRead(t, file)
		}
	}
	return pages
}

// rows returns the table rows of a page whose first cell is code, keyed by that cell.
func rows(t testing.TB, page string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(mustRead(t, filepath.Join(root, "docs", page))) {
		line = strings.TrimSpace(line)
		if cell, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(cell, "`")
			found[name] = line
		}
	}
	return found
}

func TestDocumentsShowTheLanes(t *testing.T) {
	shown := rows(t, "architecture.md")
	for _, r := range contract.Table() {
		want := fmt.Sprintf("| `%s` | %s | %s-svc | %s | %s |", r.Type, r.Lane, r.Producer, r.Why, r.Undelivered)
		if shown[string(r.Type)] != want {
			t.Errorf("architecture.md should have\n%s\nbut has\n%s", want, shown[string(r.Type)])
		}
	}
}

func TestDocumentsShowTheConfiguration(t *testing.T) {
	shown := rows(t, "configuration.md")
	known := map[string]bool{}
	for _, service := range []string{"member-svc", "storage-svc"} {
		declared, err := variables.Read(root, service)
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range declared {
			known[name] = true
			def := "`" + v.Default + "`"
			if v.Default == "" {
				def = "–"
			}
			if v.Required {
				def = "required"
			}
			want := fmt.Sprintf("| `%s` | %s | %s |", name, def, v.Help)
			if shown[name] != want {
				t.Errorf("configuration.md should have\n%s\nbut has\n%s", want, cmp.Or(shown[name], "nothing"))
			}
		}
	}
	for name := range shown {
		if regexp.MustCompile(`^[A-Z_]+$`).MatchString(name) && !known[name] {
			t.Errorf("configuration.md lists %s, which nothing reads", name)
		}
	}
}

var (
	fence    = regexp.MustCompile("(?ms)^```.*?^```$")
	link     = regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`)
	testName = regexp.MustCompile(`\bTest[A-Z]\w+`)
)

func TestDocumentsPointToExistingThings(t *testing.T) {
	tests := testNames(t)
	for file, text := range documents(t) {
		for _, found := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			target := filepath.Join(filepath.Dir(file), found[1])
			if found[1] == "" {
				target = file
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", file, err)
			} else if found[2] != "" && !slices.Contains(anchors(mustRead(t, target)), found[2]) {
				t.Errorf("%s: %s has no heading %s", file, found[1], found[2])
			}
		}
		for _, name := range testName.FindAllString(text, -1) {
			if !tests[name] {
				t.Errorf("%s names %s, which does not exist", file, name)
			}
		}
	}
}

// anchors returns the fragments of a page's headings, as GitHub makes them.
func anchors(page string) (found []string) {
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	headings := regexp.MustCompile(`(?m)^#+ (.*)$`)
	for _, heading := range headings.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		slug := strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(heading[1]), ""), " ", "-")
		found = append(found, "#"+slug)
	}
	return found
}

// testNames lists the tests of all modules.
func testNames(t testing.TB) map[string]bool {
	t.Helper()
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		for _, found := range declaration.FindAllStringSubmatch(mustRead(t, file), -1) {
			names[found[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The containers' demo tokens are documented.
func TestDemoTokensAreDocumented(t *testing.T) {
	for _, page := range []string{"docs/compose.md", "deploy/demo-tokens"} {
		for _, token := range []string{"demo-viewer-token", "demo-operator-token"} {
			if !strings.Contains(mustRead(t, filepath.Join(root, page)), token) {
				t.Errorf("%s does not name %s", page, token)
			}
		}
	}
}

// The page explains every problem code of the OpenAPI documents.
func TestAPIPageExplainsAllProblems(t *testing.T) {
	page := mustRead(t, filepath.Join(root, "docs", "api.md"))
	for _, document := range []string{"member-svc/internal/api/public.yaml", "member-svc/internal/api/admin.yaml",
		"storage-svc/internal/api/openapi.yaml"} {
		codes := regexp.MustCompile(`urn:signup-saga:problem:([a-z_]+)`).FindAllStringSubmatch(
			mustRead(t, filepath.Join(root, document)), -1)
		if len(codes) < 5 {
			t.Errorf("%s has %d problems", document, len(codes))
		}
		for _, code := range codes {
			if !strings.Contains(page, "`"+code[1]+"`") {
				t.Errorf("docs/api.md does not explain %s of %s", code[1], document)
			}
		}
	}
}

var (
	called    = regexp.MustCompile(`\$(?:ADMIN|STORAGE)_URL(/[^\s?"` + "`" + `;]*)`)
	parameter = regexp.MustCompile(`\$\w+|\{\w+\}`)
)

// TestRunbookUsesExistingCalls checks that every call in the runbook is in the OpenAPI documents.
func TestRunbookUsesExistingCalls(t *testing.T) {
	paths := map[string]bool{}
	for _, document := range []string{"member-svc/internal/api/admin.yaml", "storage-svc/internal/api/openapi.yaml"} {
		for _, found := range regexp.MustCompile(`(?m)^  (/.*):$`).FindAllStringSubmatch(
			mustRead(t, filepath.Join(root, document)), -1) {
			paths[parameter.ReplaceAllString(found[1], "*")] = true
		}
	}
	calls := called.FindAllStringSubmatch(mustRead(t, filepath.Join(root, "docs", "runbook.md")), -1)
	if len(calls) == 0 {
		t.Error("the runbook calls nothing")
	}
	for _, found := range calls {
		if !paths[parameter.ReplaceAllString(found[1], "*")] {
			t.Errorf("the runbook calls %s, which no document has", found[1])
		}
	}
}

// Actions are pinned by commit, because a tag can be moved. People and Dependabot read the version in the comment.
func TestActionsArePinned(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, ".github/workflows/*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	pinned := regexp.MustCompile(`uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, file := range files {
		for line := range strings.Lines(mustRead(t, file)) {
			if line = strings.TrimSpace(line); strings.Contains(line, "uses:") && !pinned.MatchString(line) {
				t.Errorf("%s: %s", filepath.Base(file), line)
			}
		}
	}
}
