package child_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
)

func TestFailedStartShowsTheProgramsOutput(t *testing.T) {
	_, _, err := child.Start(t.Context(), exec.Command("sh", "-c", "echo no disk >&2; exit 3"), "READY=")
	if err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("error %v", err)
	}
}

func TestProcessEndsWithItsInput(t *testing.T) {
	p, value, err := child.Start(t.Context(), exec.Command("sh", "-c", "trap '' TERM; echo READY=yes; cat"), "READY=")
	if err != nil || value != "yes" {
		t.Fatalf("%q, %v", value, err)
	}
	if err := p.Close(); err != nil || p.Err != nil {
		t.Errorf("closed with %v, ended with %v", err, p.Err)
	}
}
