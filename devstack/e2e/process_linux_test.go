package e2e

import (
	"os/exec"
	"syscall"
)

// dieWithTests makes a process end when the test program is killed.
func dieWithTests(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
