//go:build verify

package guards

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// testLimit bounds a test without its guard. A test has to fail; one that hangs until this limit does not.
const testLimit = 3 * time.Minute

// compilers bounds how many mutants are compiled at a time. Tests mostly wait, so more of them run: see -parallel.
var compilers = make(chan struct{}, runtime.GOMAXPROCS(0))

// noServer is how testenv reports that a test could not begin.
var noServer = regexp.MustCompile(`(start|prepare|find a port for|make a folder for) (PostgreSQL|NATS|the \w+ data)`)

// Each guard is needed: without it, its test fails. The source tree itself is not changed; the compiler gets another
// file through an overlay.
func TestEveryGuardIsNeeded(t *testing.T) {
	guards := readGuards(t)
	// The tests at the root of a module run whole services and take longest, so they begin first.
	slices.SortStableFunc(guards, func(a, b guard) int {
		return strings.Count(a.pkg, "/") - strings.Count(b.pkg, "/")
	})
	for _, g := range guards {
		t.Run(strings.ReplaceAll(g.promise, " ", "_"), func(t *testing.T) {
			t.Parallel()
			program := compile(t, g)
			ctx, cancel := context.WithTimeout(t.Context(), testLimit)
			defer cancel()
			// Subtests that wait in vain wait beside each other.
			test := exec.CommandContext(ctx, program, "-test.run=^"+g.test+"$", "-test.failfast", "-test.parallel=8")
			test.Dir = filepath.Join(root, g.pkg)
			test.WaitDelay = time.Second
			text, err := test.CombinedOutput()
			out := string(text)
			var exit *exec.ExitError
			red := errors.As(err, &exit) && regexp.MustCompile(`(?m)^--- FAIL: `+g.test+` `).MatchString(out)
			switch {
			case ctx.Err() != nil:
				t.Errorf("%s: without the guard, %s hangs:\n%s", g.place, g.test, out)
			case !red:
				t.Errorf("%s: without the guard, %s does not fail (%v):\n%s", g.place, g.test, err, out)
			case noServer.MatchString(out):
				t.Errorf("%s: %s fails for another reason than the guard:\n%s", g.place, g.test, out)
			}
		})
	}
}

// compile compiles the package of the test without the guard, and returns the program. It uses the flags with which
// the Makefile builds programs, so that everything else is compiled already.
func compile(t *testing.T, g guard) (program string) {
	t.Helper()
	mutant, err := g.mutant()
	if err != nil {
		t.Fatalf("%s: %v", g.place, err)
	}
	file, err := filepath.Abs(filepath.Join(root, g.file))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program = filepath.Join(dir, "test")
	changed, overlay := filepath.Join(dir, "mutant"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{changed: mutant, overlay: string(replace)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	compilers <- struct{}{}
	defer func() { <-compilers }()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", program,
		"-trimpath", "-buildvcs=false", "-vet=off", "-ldflags=-s -w", ".")
	cmd.Dir = filepath.Join(root, g.pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: without the guard, the package does not compile: %v\n%s", g.place, err, out)
	}
	return program
}
