package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
)

// services are the programs that are built from the source tree. Each is named like its folder.
var services = []string{"member-svc", "storage-svc"}

// build builds the services into the folder bin of the source tree, as "make build" does. What is up to date is
// neither compiled nor linked again. Only the Makefile holds the compiler's flags.
func build(ctx context.Context, root string) error {
	if out, err := process.Run(ctx, exec.Command("make", "--no-print-directory", "-C", root, "services")); err != nil {
		return fmt.Errorf("build the services (--bin DIR uses those in DIR instead): %w\n%s", err, out)
	}
	return nil
}

// source finds the source tree with the services: around the working directory, around this program, or where
// this program was built.
func source() (string, error) {
	var starts []string
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if program, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(program))
	}
	if _, file, _, ok := runtime.Caller(0); ok {
		starts = append(starts, filepath.Dir(file))
	}
	for _, dir := range starts {
		for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			if isSource(dir) {
				return dir, nil
			}
		}
	}
	return "", errors.New(
		"the source of the services was not found: run devstack in its tree, or name built services with --bin")
}

func isSource(dir string) bool {
	for _, name := range services {
		if _, err := os.Stat(filepath.Join(dir, name, "go.mod")); err != nil {
			return false
		}
	}
	return true
}
