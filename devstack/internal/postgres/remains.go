package postgres

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Vacate removes what a killed server left outside its directory. It returns false while the server still runs.
// dir is a directory that may hold a Cluster.
func Vacate(dir string) bool {
	for _, data := range []string{filepath.Join(dir, "data"), filepath.Join(dir, "postgres", "data")} {
		if pid := pidFile(data, 1); pid > 0 && syscall.Kill(pid, 0) == nil {
			return false
		}
		releaseSharedMemory(data)
	}
	return true
}

// releaseSharedMemory removes the segment with which a server guards its data directory against a second server.
// A killed server cannot remove it itself. A segment in use stays.
func releaseSharedMemory(data string) {
	info, err := os.Lstat(data)
	if err != nil {
		return
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		if id := pidFile(data, 7); id >= 0 {
			removeUnusedSegment(id, owner.Uid) // the file may name another user's segment
		}
	}
}

// pidFile returns the last number on a line of the server's pid file, or -1. Line 1 holds the process id. Line 7
// holds two numbers; the second is the id of the shared memory segment.
func pidFile(data string, line int) int {
	content, err := readPlain(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return -1
	}
	lines := strings.Split(string(content), "\n")
	if len(lines) < line {
		return -1
	}
	fields := strings.Fields(lines[line-1])
	if len(fields) == 0 {
		return -1
	}
	n, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return -1
	}
	return n
}
