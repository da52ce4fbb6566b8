package e2e

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/contract"
)

// documents are the pages whose links and names are checked.
func documents(t testing.TB) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md"} {
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

// rows returns the README's table rows whose first cell is code, by that cell.
func rows(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(mustRead(t, filepath.Join(repository, "README.md"))) {
		line = strings.TrimSpace(line)
		if cell, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(cell, "`")
			found[name] = line
		}
	}
	return found
}

func TestReadmeShowsTheLanes(t *testing.T) {
	shown := rows(t)
	for _, r := range contract.Table() {
		want := fmt.Sprintf("| `%s` | %s | %s-svc | %s | %s |", r.Type, r.Lane, r.Producer, r.Why, r.Undelivered)
		if shown[string(r.Type)] != want {
			t.Errorf("the README should have\n%s\nbut has\n%s", want, shown[string(r.Type)])
		}
	}
}

func TestReadmeShowsTheConfiguration(t *testing.T) {
	shown := rows(t)
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
				t.Errorf("the README should have\n%s\nbut has\n%s", want, cmp.Or(shown[name], "nothing"))
			}
		}
	}
	for name := range shown {
		if regexp.MustCompile(`^[A-Z_]+$`).MatchString(name) && !known[name] {
			t.Errorf("the README lists %s, which nothing reads", name)
		}
	}
}

var (
	fence    = regexp.MustCompile("(?ms)^```.*?^```$")
	link     = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	testName = regexp.MustCompile(`\bTest[A-Z]\w+`)
)

func TestDocumentsPointToWhatExists(t *testing.T) {
	tests := testNames(t)
	for file, text := range documents(t) {
		for _, found := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), found[1])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		for _, name := range testName.FindAllString(text, -1) {
			if !tests[name] {
				t.Errorf("%s names %s, which does not exist", file, name)
			}
		}
	}
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

// The demonstration tokens of the containers are the ones that are documented.
func TestDemoTokensAreDocumented(t *testing.T) {
	for _, page := range []string{"README.md", "deploy/demo-tokens"} {
		for _, token := range []string{"demo-viewer-token", "demo-operator-token"} {
			if !strings.Contains(mustRead(t, filepath.Join(repository, page)), token) {
				t.Errorf("%s does not name %s", page, token)
			}
		}
	}
}
