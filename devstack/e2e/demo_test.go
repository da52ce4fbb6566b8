package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// Ctrl-C ends the demo without reporting a failure, and nothing that it started keeps running.
func TestDemoIsEndedWithoutAFailure(t *testing.T) {
	demo := start(t, "devstack demo", os.Environ(), devstack, "demo", "--bin", binaries)
	eventually(t, startLimit, "the second step of the story", func() bool {
		select {
		case <-demo.done:
			t.Fatalf("the demo ended: %v", demo.err)
		default:
		}
		return strings.Contains(demo.printed.String(), "✓ 20 people sign up")
	})
	if err := demo.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	eventually(t, stopLimit, "the end of the demo", func() bool {
		select {
		case <-demo.done:
			return true
		default:
			return false
		}
	})
	if demo.err != nil {
		t.Errorf("it ended with %v", demo.err)
	}
	printed := demo.printed.String()
	if strings.Contains(printed, "✗") || !strings.Contains(printed, "The demo has ended") {
		t.Errorf("it printed\n%s", printed)
	}
}
