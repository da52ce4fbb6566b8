package process

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reapLimit is how long reap waits for killed processes to end.
const reapLimit = 2 * time.Second

// children lists the processes whose parent is pid, except those that end meanwhile.
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
		// The command name may hold spaces and parentheses. After its last closing parenthesis comes "state ppid …".
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && string(fields[1]) == strconv.Itoa(pid) {
			found = append(found, child)
		}
	}
	return found
}

// adoptOrphans makes this process the parent of every descendant whose parent dies: in a container, nothing else
// may reap them. If the kernel refuses, another process adopts them.
func adoptOrphans() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// reap reaps killed processes that this process has adopted.
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
