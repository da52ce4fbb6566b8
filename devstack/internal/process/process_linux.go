package process

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reapLimit bounds the wait for killed processes to end.
const reapLimit = 2 * time.Second

func dieWithParent(attr *syscall.SysProcAttr, signal syscall.Signal) { attr.Pdeathsig = signal }

// children lists the processes whose parent is pid. A process that ends meanwhile is left out.
func children(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The command name may hold spaces and parentheses; what follows its last one is "state ppid …".
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && string(fields[1]) == strconv.Itoa(pid) {
			found = append(found, child)
		}
	}
	return found
}

// adoptOrphans makes this process the parent of every descendant whose parent dies. In a container nobody else may
// collect them. Where the kernel refuses, they are left to whoever adopts them.
func adoptOrphans() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// reap collects killed processes that this process has adopted.
func reap(pids []int) {
	deadline := time.Now().Add(reapLimit)
	for _, pid := range pids {
		for time.Now().Before(deadline) {
			collected, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
			if collected == pid || (err != nil && err != syscall.EINTR) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}
