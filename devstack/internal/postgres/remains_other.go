//go:build unix && !linux

package postgres

// removeUnusedSegment does nothing: a server that starts in the same directory removes the segment, and it holds 56
// bytes.
func removeUnusedSegment(int, uint32) {}
