package documents

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/signup-saga/signup-saga/"

// imports returns the project's packages, by folder, with the project's packages that each imports outside its
// tests.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	repository := os.DirFS(root)
	err := fs.WalkDir(repository, ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || strings.HasPrefix(file, ".git")):
			return fs.SkipDir
		case entry.IsDir() || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(repository, file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder := path.Dir(file)
		if found[folder] == nil {
			found[folder] = []string{}
		}
		for _, spec := range parsed.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(name, module); ok && err == nil && !slices.Contains(found[folder], own) {
				found[folder] = append(found[folder], own)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	code    = regexp.MustCompile("`([^`]+)`")
	section = regexp.MustCompile(`^## (member-svc|storage-svc)$`)
)

// The map has each package once, with the packages of the project that it imports. Tables of the services leave
// out the folder internal, and service among the imports.
func TestMapShowsEveryPackage(t *testing.T) {
	packages := imports(t)
	shown, inside := map[string]bool{}, ""
	for line := range strings.Lines(mustRead(t, root+"/docs/map.md")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "## ") {
			inside = ""
			if m := section.FindStringSubmatch(line); m != nil {
				inside, shown[m[1]] = m[1]+"/internal", true // the program is in the text
			}
		}
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(line, "| `") {
			continue
		}
		folder := inside
		for i, m := range code.FindAllStringSubmatch(cells[1], -1) {
			name := named(packages, folder, m[1])
			if _, ok := packages[name]; !ok || shown[name] {
				t.Errorf("%s is no package, or shown twice", name)
			}
			if i == 0 && inside == "" {
				folder = path.Dir(name)
			}
			shown[name] = true
			if len(cells) > 4 {
				checkImports(t, packages, inside, name, cells[3])
			}
		}
	}
	for name := range packages {
		if !shown[name] {
			t.Errorf("the map does not show %s", name)
		}
	}
}

// named returns the folder of a package that the map shows by its name below folder, or by its path.
func named(packages map[string][]string, folder, name string) string {
	if below := path.Join(folder, name); packages[below] != nil {
		return below
	}
	return name
}

func checkImports(t *testing.T, packages map[string][]string, inside, name, cell string) {
	t.Helper()
	var want []string
	for _, m := range code.FindAllStringSubmatch(cell, -1) {
		want = append(want, named(packages, inside, m[1]))
	}
	got := slices.Clone(packages[name])
	if inside != "" {
		got = slices.DeleteFunc(got, func(p string) bool { return p == "service" })
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s imports %v, the map says %v", name, got, want)
	}
}
