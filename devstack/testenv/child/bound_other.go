//go:build unix && !linux

package child

import "syscall"

// dieWithParent does nothing: only Linux can end a child with its parent.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
