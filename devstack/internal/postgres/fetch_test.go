package postgres

import (
	"crypto/sha512"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
)

func TestFetchedPackageIsTheReviewedOne(t *testing.T) {
	file := filepath.Join(t.TempDir(), "package.tgz")
	if err := os.WriteFile(file, []byte("reviewed"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512([]byte("reviewed"))
	hash := base64.StdEncoding.EncodeToString(sum[:])
	if err := verify(file, hash); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("changed!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verify(file, hash); err == nil {
		t.Error("a changed package is used")
	}
	if err := verify(file+"x", hash); err == nil {
		t.Error("an absent package is used")
	}
	for platform, hash := range fetchHashes {
		if b, err := base64.StdEncoding.DecodeString(hash); err != nil || len(b) != sha512.Size {
			t.Errorf("%s: %v, %d bytes", platform, err, len(b))
		}
	}
}
