package postgres

import (
	"time"

	"golang.org/x/sys/unix"
)

// removeUnusedSegment removes a segment of owner. It waits up to three seconds for the children of a killed
// server to detach from it.
func removeUnusedSegment(id int, owner uint32) {
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var desc unix.SysvShmDesc
		if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil || desc.Perm.Uid != owner {
			return
		}
		if desc.Nattch == 0 {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // an error means that it is already removed
			return
		}
	}
}
