// Package variables reads the configuration that the services declare in their source.
package variables

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// Variable is what the code declares about one variable.
type Variable struct {
	Default  string
	Required bool
	Help     string
}

// Read returns the variables of a service by name, from the struct tags in its source. root is the repository.
func Read(root, service string) (map[string]Variable, error) {
	variables := map[string]Variable{}
	for _, folder := range []string{"service", "service/reconcile", service} {
		files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			if err := readTags(file, variables); err != nil {
				return nil, err
			}
		}
	}
	if len(variables) < 10 {
		return nil, fmt.Errorf("%s has only %d variables in %s", service, len(variables), root)
	}
	return variables, nil
}

func readTags(file string, variables map[string]Variable) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok || field.Tag == nil {
			return true
		}
		text, _ := strconv.Unquote(field.Tag.Value) // the parser has accepted it
		tag := reflect.StructTag(text)
		name, options, _ := strings.Cut(tag.Get("env"), ",")
		// Fields without help repeat another variable, for a command that needs fewer of them.
		if name != "" && tag.Get("help") != "" {
			variables[name] = Variable{tag.Get("envDefault"), strings.Contains(options, "required"), tag.Get("help")}
		}
		return true
	})
	return nil
}
