//go:build !linux

package e2e

import (
	"os/exec"
	"syscall"
)

// dieWithTests shields a process from an interrupt at the terminal: the test ends it instead.
func dieWithTests(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
