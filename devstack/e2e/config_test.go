package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// configVariable is what the code declares about one variable.
type configVariable struct {
	def      string
	required bool
	help     string
}

// configuration reads the variables of each service from the struct tags in its source.
func configuration(t testing.TB) map[string]map[string]configVariable {
	t.Helper()
	all := map[string]map[string]configVariable{"member-svc": {}, "storage-svc": {}}
	for name, variables := range all {
		for _, folder := range []string{"service", "service/reconcile", name} {
			files, err := filepath.Glob(filepath.Join(repository, folder, "*.go"))
			if err != nil || len(files) == 0 {
				t.Fatalf("no source in %s: %v", folder, err)
			}
			for _, file := range files {
				if !strings.HasSuffix(file, "_test.go") {
					readTags(t, file, variables)
				}
			}
		}
		if len(variables) < 10 {
			t.Fatalf("only %d variables found for %s", len(variables), name)
		}
	}
	return all
}

func readTags(t testing.TB, file string, variables map[string]configVariable) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok || field.Tag == nil {
			return true
		}
		text, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			t.Fatal(err)
		}
		tag := reflect.StructTag(text)
		name, options, _ := strings.Cut(tag.Get("env"), ",")
		// Fields without help repeat another variable, for a command that needs fewer of them.
		if name != "" && tag.Get("help") != "" {
			variables[name] = configVariable{tag.Get("envDefault"), strings.Contains(options, "required"),
				tag.Get("help")}
		}
		return true
	})
}
