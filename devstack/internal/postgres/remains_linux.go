package postgres

import (
	"time"

	"golang.org/x/sys/unix"
)

// removeUnusedSegment removes a segment of owner. It gives the children of a killed server a moment to let go of it.
func removeUnusedSegment(id int, owner uint32) {
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var desc unix.SysvShmDesc
		if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil || desc.Perm.Uid != owner {
			return
		}
		if desc.Nattch == 0 {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // already gone is just as well
			return
		}
	}
}
