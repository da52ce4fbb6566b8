//go:build unix && !linux

package postgres

// removeUnusedSegment does nothing: the segment has 56 bytes, and the next server in the same directory removes it.
func removeUnusedSegment(int, uint32) {}
