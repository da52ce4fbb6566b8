package guards

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.." // of the repository

type guard struct {
	promise  string
	place    string // of its block: file and line
	file     string // from the root, as pkg
	old, new string // the mutation
	pkg      string // the package of the test
	test     string
}

// readGuards reads the lists of the whole repository.
func readGuards(t *testing.T) []guard {
	t.Helper()
	var guards []guard
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.Name() == ".git" || entry.Name() == "bin":
			return filepath.SkipDir
		case entry.Name() != "guards.txt":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if path, err = filepath.Rel(root, path); err != nil {
			return err
		}
		found, err := parseGuards(path, string(text))
		guards = append(guards, found...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return guards
}

// parseGuards parses a list. path is that of the list.
func parseGuards(path, text string) ([]guard, error) {
	var guards []guard
	var errs []error
	line := 1
	for block := range strings.SplitSeq(text, "\n\n") {
		g, err := parseGuard(filepath.Dir(path), block)
		g.place = fmt.Sprintf("%s:%d", path, line)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g.place, err))
		} else if g.promise != "" {
			guards = append(guards, g)
		}
		line += strings.Count(block, "\n") + 2
	}
	return guards, errors.Join(errs...)
}

// parseGuard parses a block. The promise is empty if it holds comments only.
func parseGuard(dir, block string) (g guard, err error) {
	var removed, added []string
	g.pkg = dir
	for line := range strings.Lines(block) {
		line = strings.TrimSuffix(line, "\n")
		key, value, _ := strings.Cut(line, " ")
		switch {
		case key == "guard:" && g.promise == "":
			g.promise = value
		case key == "file:" && g.file == "":
			g.file = filepath.Join(dir, value)
		case key == "test:" && g.test == "":
			test, in, elsewhere := strings.Cut(value, " in ")
			if g.test = test; elsewhere {
				g.pkg = filepath.Clean(in)
			}
		case key == "-" && len(added) == 0:
			removed = append(removed, value)
		case key == "+" && len(removed) > 0:
			added = append(added, value)
		case line == "" || strings.HasPrefix(line, "#"):
		default:
			return g, fmt.Errorf("unexpected line %q", line)
		}
	}
	g.old, g.new = strings.Join(removed, "\n"), strings.Join(added, "\n")
	some := g.promise != "" || g.file != "" || g.test != "" || removed != nil
	if some && (g.promise == "" || g.file == "" || g.test == "" || g.old == "" || g.old == g.new) {
		return g, errors.New("a guard has lines with guard:, file:, test:, and different lines with - and +")
	}
	return g, nil
}

// mutant returns the file of the guard without the guard.
func (g guard) mutant() (string, error) {
	source, err := os.ReadFile(filepath.Join(root, g.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), g.old); n != 1 {
		return "", fmt.Errorf("%s contains this text %d times, not once:\n%s", g.file, n, g.old)
	}
	return strings.Replace(string(source), g.old, g.new, 1), nil
}

// hasTest says whether the package of the test has that test, without a build tag.
func (g guard) hasTest() bool {
	files, err := filepath.Glob(filepath.Join(root, g.pkg, "*_test.go"))
	if err != nil {
		return false
	}
	declaration := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(g.test) + `\(t \*testing\.T\)`)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err == nil && declaration.Match(source) && !strings.Contains(string(source), "//go:build verify") {
			return true
		}
	}
	return false
}

// The lists name files, texts and tests that exist, so a guard moves with its code.
func TestGuardsNameTheirCode(t *testing.T) {
	places := map[string]string{}
	for _, g := range readGuards(t) {
		if _, err := g.mutant(); err != nil {
			t.Errorf("%s: %v", g.place, err)
		}
		if !g.hasTest() {
			t.Errorf("%s: %s has no test %s", g.place, g.pkg, g.test)
		}
		if other, double := places[g.promise]; double {
			t.Errorf("%s: the guard has the same promise as that of %s", g.place, other)
		}
		places[g.promise] = g.place
	}
	if len(places) == 0 {
		t.Error("no guards were found")
	}
}

func TestMalformedGuardsAreRefused(t *testing.T) {
	const good = "# a list\n\n# about it\nguard: p q\nfile: a.go\ntest: TestA\n- old\n- \tx\n+ new"
	list, err := parseGuards("d/guards.txt", good)
	want := guard{promise: "p q", place: "d/guards.txt:3", file: "d/a.go", old: "old\n\tx", new: "new", pkg: "d",
		test: "TestA"}
	if err != nil || len(list) != 1 || list[0] != want {
		t.Fatalf("got %+v, %v, want %+v", list, err, want)
	}
	for _, change := range [][2]string{
		{"guard: p q\n", ""}, {"file: a.go\n", ""}, {"test: TestA\n", ""}, {"- old\n- \tx\n", ""},
		{"+ new", "new"}, {"- old\n", "+ old\n"}, {"file: a.go\n", "file: a.go\nfile: b.go\n"},
		{"- old\n- \tx\n+ new", "- old\n+ old"}, {"test:", "tests:"},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if list, err := parseGuards("d/guards.txt", bad); err == nil {
			t.Errorf("%q is read as %+v", bad, list)
		}
	}
}
