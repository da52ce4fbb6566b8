package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
)

// services are the programs that are built from the tree; each is named like its folder.
var services = []string{"member-svc", "storage-svc"}

// build builds the services into bin.
func build(ctx context.Context, bin string) error {
	root, err := source()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range services {
		group.Go(func() error {
			// The version stamp needs a usable git checkout, which a copied tree is not.
			cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(bin, name), ".")
			cmd.Dir = filepath.Join(root, name)
			if out, err := process.Run(ctx, cmd); err != nil {
				return fmt.Errorf("build %s: %w\n%s", name, err, out)
			}
			return nil
		})
	}
	return group.Wait()
}

// source finds the tree with the services: around the working directory, around this program, or where it was built.
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
	return "", errors.New("the source of the services was not found: run devstack in its tree, or name built services with --bin")
}

func isSource(dir string) bool {
	for _, name := range services {
		if _, err := os.Stat(filepath.Join(dir, name, "go.mod")); err != nil {
			return false
		}
	}
	return true
}
