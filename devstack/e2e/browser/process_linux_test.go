package browser

import (
	"os/exec"
	"syscall"
)

// dieWithTests ends a process when the test program is killed.
func dieWithTests(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
