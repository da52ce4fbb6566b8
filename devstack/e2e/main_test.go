package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// What every test uses; TestMain sets these.
var (
	repository string // absolute path
	binaries   string // folder with member-svc and storage-svc
	devstack   string // the program
)

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if repository, err = filepath.Abs(filepath.Join("..", "..")); err != nil {
		return 1, err
	}
	binaries = filepath.Join(repository, "bin")
	if devstack = os.Getenv("DEVSTACK_BIN"); devstack == "" {
		devstack = filepath.Join(binaries, "devstack")
	}
	if out, err := exec.Command("make", "--no-print-directory", "-C", repository,
		"build").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("make build: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// eventually polls cond until it is true. what completes the message "gave up waiting for …".
var eventually = testenv.Eventually
