package child

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// StartBound starts cmd in its own process group and has the kernel send it signal when this process dies. The kernel
// does so when the thread that started the child ends. Every child is therefore started from one thread that lives as
// long as the process. Outside Linux, no signal is sent.
func StartBound(cmd *exec.Cmd, signal syscall.Signal) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, signal)
	result := make(chan error, 1)
	starter() <- func() { result <- cmd.Start() }
	return <-result
}

var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range work {
			start()
		}
	}()
	return work
})
