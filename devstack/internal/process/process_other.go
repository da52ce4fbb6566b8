//go:build unix && !linux

package process

import (
	"os/exec"
	"strconv"
	"strings"
)

// children lists the processes whose parent is pid.
func children(pid int) []int {
	out, err := exec.Command("ps", "-axo", "pid=,ppid=").Output()
	if err != nil {
		return nil
	}
	var found []int
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if child, err := strconv.Atoi(fields[0]); err == nil {
			found = append(found, child)
		}
	}
	return found
}

// adoptOrphans does nothing: outside Linux, the first process of the system adopts them.
func adoptOrphans() {}

func reap([]int) {}
