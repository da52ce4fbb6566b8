package ledger_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv/ledger"
)

func TestOnlyCreatesAreCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	if got, err := ledger.Creations(path); err != nil || len(got) != 0 {
		t.Fatalf("no file: %v, %v", got, err)
	}
	lines := `{"op":"create","member_id":"a"}` + "\n" + `{"op":"delete","member_id":"a"}` + "\n" +
		`{"op":"create","member_id":"a"}` + "\n"
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ledger.Creations(path)
	if err != nil || got["a"] != 2 || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
