package e2e

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
)

// documents returns the pages whose links and names are checked.
func documents(t testing.TB) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "*/*.md", "docs/adr/*.md"} {
		files, err := filepath.Glob(filepath.Join(repository, pattern))
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
	for line := range strings.Lines(mustRead(t, filepath.Join(repository, "docs", page))) {
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
	for _, variables := range configuration(t) {
		for name, v := range variables {
			known[name] = true
			def := "`" + v.def + "`"
			if v.def == "" {
				def = "–"
			}
			if v.required {
				def = "required"
			}
			want := fmt.Sprintf("| `%s` | %s | %s |", name, def, v.help)
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
	err := filepath.WalkDir(repository, func(file string, entry fs.DirEntry, err error) error {
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
			if !strings.Contains(mustRead(t, filepath.Join(repository, page)), token) {
				t.Errorf("%s does not name %s", page, token)
			}
		}
	}
}
