package provider

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Two processes read and see no marker, and one of them is slow: its later write must not replace the other's
// marker.
func TestFSLateClaimChangesNothing(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	v := volume{root}
	const owner = ownerFile
	const member = "0199aaaa-0000-7000-8000-000000000001"
	first := marker{MemberID: member, Generation: 2, Tombstone: true}
	if err := v.claim(owner, first); err != nil {
		t.Fatal(err)
	}
	if err := v.claim(owner, marker{MemberID: member, Generation: 1, QuotaBytes: 1}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the late claim ended with %v", err)
	}
	if have, err := v.marker(owner); err != nil || have != first {
		t.Errorf("the marker is %+v, %v", have, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, tmpDir)); err != nil || len(left) != 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}
