package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv/child"
	"github.com/signup-saga/signup-saga/devstack/testenv/scratch"
)

// SmallDisk runs the calling test again, in a new process that sees a disk of the given size, for example 128m,
// mounted in a folder. No other process sees that mount. In the new process SmallDisk returns the folder. In the
// process that started it, SmallDisk waits for the new one, fails the test if that failed, and returns "". The
// test must not have run subtests before.
func SmallDisk(t testing.TB, size string) (dir string) {
	t.Helper()
	if dir = os.Getenv("SMALL_DISK"); dir != "" {
		return dir
	}
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home, err := scratch.New("")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := home.Remove(); err != nil {
			t.Error(err)
		}
	}()
	dir = filepath.Join(home.Path, "disk")
	if err := os.Mkdir(dir, 0o755); err != nil { // the account of a database server has to pass through
		t.Fatal(err)
	}
	command := slices.Concat(OwnMounts(t), []string{
		"sh", "-euc", `mount -t tmpfs -o mode=755,size="$1" database "$2" && shift 2 && exec "$@"`, "sh", size, dir,
		"env", "SMALL_DISK=" + dir, "DEVSTACK_BIN=" + program, self, "-test.v", "-test.run=^" + t.Name() + "$",
	})
	out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return ""
}

// OwnMounts returns a command that runs another command, with mounts that no other process sees.
func OwnMounts(t testing.TB) []string {
	root := []string{"unshare", "--mount"}
	if os.Getuid() == 0 {
		return root
	}
	user := append(root, "--user", "--map-current-user", "--keep-caps")
	if exec.CommandContext(t.Context(), user[0], append(user[1:], "true")...).Run() != nil {
		return append([]string{"sudo", "-n"}, root...) // only root may create namespaces on this system
	}
	return user
}

// ClusterIn keeps a cluster of the test's own in a folder. The returned function starts the server unless it
// runs, and returns the URL (superuser) of its database "postgres". Each start uses another port.
func ClusterIn(t testing.TB, dir string) (start func() (url string)) {
	t.Helper()
	var running *child.Process
	var printed string
	t.Cleanup(func() {
		if running != nil {
			_ = running.Close() // it may have ended: such tests break it
		}
	})
	return func() string {
		t.Helper()
		if running != nil {
			select {
			case <-running.Done:
			default:
				return printed
			}
		}
		var err error
		if running, printed, err = launch("DATABASE_URL", "postgres", "--dir", dir); err != nil {
			t.Fatalf("start PostgreSQL: %v", err)
		}
		return printed
	}
}
