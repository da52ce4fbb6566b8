//go:build !linux

package browser

import (
	"os/exec"
	"syscall"
)

// dieWithTests keeps an interrupt at the terminal from a process: the test ends it.
func dieWithTests(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
