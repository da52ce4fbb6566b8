package stack

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestAShellReadsTheFile(t *testing.T) {
	values := Variables{{"PLAIN", "postgres://a:b@127.0.0.1:1/member?sslmode=disable"},
		{"ODD", `/tmp/it's a "folder" & $HOME`}}
	path := filepath.Join(t.TempDir(), "devstack.env")
	if err := os.WriteFile(path, values.file(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", `. "$0" && printf %s "$`+v.Name+`"`, path).Output()
		if err != nil || string(out) != v.Value {
			t.Errorf("%s is %q, error %v; want %q", v.Name, out, err, v.Value)
		}
	}
	if got := string(values[:1].file()); got != "PLAIN="+values[0].Value+"\n" {
		t.Errorf("a plain value was quoted: %s", got)
	}
}
