package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signup-saga/signup-saga/devstack/internal/postgres"
	"github.com/signup-saga/signup-saga/devstack/testenv/scratch"
)

// enter returns the absolute path of the folder to work in, a temporary one if dir is empty. It locks the
// folder, so that only one devstack works in it; leave releases the lock and removes a temporary folder.
func enter(dir string, account postgres.Account) (path string, leave func() error, err error) {
	base := account.TempDir()
	scratch.Sweep(base, postgres.Vacate)
	if dir == "" {
		made, err := scratch.New(base)
		if err != nil {
			return "", nil, err
		}
		return made.Path, made.Remove, nil
	}
	if path, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	// A database server that runs as another user has to pass through.
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", nil, err
	}
	lock, err := scratch.Lock(filepath.Join(path, ".lock"))
	if err != nil {
		return "", nil, fmt.Errorf("another devstack works in %s: %w", path, err)
	}
	return path, lock.Close, nil
}

// unlessEnded drops an error that occurs because the user ended the command.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
