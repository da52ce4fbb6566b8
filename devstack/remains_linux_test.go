package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A killed PostgreSQL can neither remove its shared memory nor reap its processes.
func TestAKilledPostgresLeavesNothing(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	up, _ := upStack(t, tmp, dir)
	content, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(strings.Split(string(content), "\n")[6])
	id, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	exists := func() bool {
		var desc unix.SysvShmDesc
		_, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc)
		return !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIDRM)
	}
	if !exists() {
		t.Fatal("the running server has no shared memory")
	}
	do(t, dir, "kill", "postgres", "killed")
	if exists() {
		t.Error("the shared memory is still there")
	}
	children, err := exec.Command("ps", "-o", "stat=", "--ppid", strconv.Itoa(up.Process.Pid)).Output()
	if err != nil || strings.Contains(string(children), "Z") {
		t.Errorf("ended processes are still listed: %v\n%s", err, children)
	}
}
